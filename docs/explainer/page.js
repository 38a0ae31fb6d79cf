"use strict";
// The page's state: a sentence, its search, and what of it the sections show.

const MOST_PIECES = 50;
const MOST_CHARACTERS = 2000;

const $ = (id) => document.getElementById(id);
const page = { at: { layer: 0, head: 0, source: 0, target: 0 }, run: 0 };

async function main() {
  try {
    page.tokenizer = new Tokenizer(DATA);
    page.model = new Transformer(DATA.config, await readWeights(DATA));
  } catch (error) {
    $("message").textContent = `This browser cannot read the model: ${error.message}`;
    throw error;
  }
  const { config } = DATA;
  page.settings = searchSettings(DATA, 0);
  describeModel(config);
  const encoderLayer = ({ encoded, at }) => layerOf(encoded, at.layer);
  const decoderLayer = ({ decoded, at }) => layerOf(decoded, at.layer);
  page.views = [
    { draw: drawPieces },
    ...embeddingViews(),
    ...attentionViews("encoder", {
      layerOf: (view) => encoderLayer(view).self,
      layers: config.encoder_layers,
      asks: "source",
      answers: "source",
      heading: (view) => `“${view.source.labels[view.at.source]}” looks at`,
    }),
    ...feedForwardViews(
      "encoder",
      "source",
      (view) => encoderLayer(view).ffn,
      (view) => view.encoded,
    ),
    ...attentionViews("self", {
      layerOf: (view) => decoderLayer(view).self,
      layers: config.decoder_layers,
      asks: "target",
      answers: "target",
      heading: (view) => `to write “${view.target.writes[view.at.target]}”, it looks at its own text`,
    }),
    ...attentionViews("cross", {
      layerOf: (view) => decoderLayer(view).cross,
      layers: config.decoder_layers,
      asks: "target",
      answers: "source",
      heading: (view) => `to write “${view.target.writes[view.at.target]}”, it looks at your sentence`,
    }),
    ...feedForwardViews(
      "decoder",
      "target",
      (view) => decoderLayer(view).ffn,
      (view) => view.decoded,
    ),
    { draw: drawOutput },
    { draw: drawBeam },
    { draw: drawControls },
  ];
  listen(config);
  $("sentence").value = new URLSearchParams(location.search).get("text") ?? DATA.examples[0] ?? "";
  await translate();
}

/** Translates the sentence; a newer call stops an older one. */
async function translate() {
  const run = ++page.run;
  document.body.dataset.state = "busy";
  const { tokenizer, model, settings } = page;
  const typed = $("sentence").value;
  const text = typed.slice(0, MOST_CHARACTERS);
  const words = tokenizer.words(text);
  let ids = tokenizer.encode(text);
  const longest =
    DATA.config.position_embedding_type === "learned" ? DATA.config.max_position_embeddings : Infinity;
  const most = Math.min(MOST_PIECES, longest);
  const cut = ids.length > most || typed.length > text.length;
  $("message").textContent = cut
    ? `This sentence is too long to show: the model reads only its first ${most} pieces.`
    : typed.trim()
      ? ""
      : "Type a sentence. Without one, the model translates nothing but its end.";
  if (ids.length > most) ids = [...ids.slice(0, most - tokenizer.after.length), ...tokenizer.after];

  const encoded = model.encode(ids);
  const { limit } = searchSettings(DATA, ids.length);
  const search = new BeamSearch(model, encoded.output, { ...settings, limit });
  do {
    await new Promise((resolve) => setTimeout(resolve)); // lets the browser handle keys and draw
    if (run !== page.run) return;
  } while (!search.step());

  Object.assign(page, { text, words, ids, encoded, search });
  const isFirst = !page.hypothesis;
  choose({
    hypothesis: search.finished[0],
    source: Math.min(page.at.source, ids.length - 1),
    target: search.finished[0].length - 1,
  });
  if (isFirst) choose(bestAligningHead(page.decoded));
  $("translation").textContent = tokenizer.decode(tokensOf(search.finished[0]));
  document.body.dataset.state = "done";
}

/** Changes what the page shows: layer, head, source, target (positions) or hypothesis. */
function choose({ hypothesis, ...changes }) {
  Object.assign(page.at, changes);
  if (hypothesis && hypothesis !== page.hypothesis) {
    page.hypothesis = hypothesis;
    const ids = tokensOf(hypothesis);
    page.decoded = page.model.decode(
      [page.search.settings.start, ...ids.slice(0, -1)],
      page.model.start(page.encoded.output),
    );
    page.targetIds = ids;
  }
  cancelAnimationFrame(page.frame);
  page.frame = requestAnimationFrame(draw);
}

/** The layer and head whose cross-attention visits the most source pieces: a good first example. */
function bestAligningHead({ layers }) {
  const heads = layers.flatMap(({ cross }, layer) =>
    cross.heads.map(({ weights }, head) => {
      const largest = weights.map((row) => Math.max(...row));
      const visited = new Set(weights.map((row, i) => row.indexOf(largest[i]))).size;
      return {
        layer,
        head,
        score: visited + largest.reduce((sum, weight) => sum + weight, 0) / weights.length,
      };
    }),
  );
  const { layer, head } = heads.sort((a, b) => b.score - a.score)[0];
  return { layer, head };
}

function draw() {
  const view = makeView();
  for (const part of page.views) part.draw(view);
}

/**
 * What the sections draw: the model and its traces; `at`: the chosen layer, head, source and target position,
 * from 0; and the labels. Row i of a decoder matrix reads target.labels[i] and writes target.writes[i].
 */
function makeView() {
  const { model, tokenizer, encoded, decoded, search, hypothesis, words, ids, targetIds, at } = page;
  const label = (id) => shortLabel(tokenizer, id);
  const wordOf = [...tokenizer.before.map(() => -1), ...words.flatMap((word, i) => word.ids.map(() => i))];
  const reads = decoded.embedded.ids.map(label);
  const writes = targetIds.map(label);
  const cutWords = ids.map((_, i) => (i < ids.length - tokenizer.after.length ? wordOf[i] : -1));
  return {
    model,
    tokenizer,
    encoded,
    decoded,
    search,
    hypothesis,
    words,
    at,
    source: { ids, labels: ids.map(label), wordOf: cutWords },
    target: { ids: targetIds, labels: reads, writes, rows: reads.map((text, i) => `${text} → ${writes[i]}`) },
  };
}

/** A piece beside a matrix: no space before a word, and a dot before a piece that continues one. */
function shortLabel(tokenizer, id) {
  const text = tokenizer.show(id);
  if (text.startsWith("␣")) return text.slice(1) || "␣";
  return /^[\p{L}\p{M}\p{N}]/u.test(text) ? `·${text}` : text;
}

/** A layer's trace with its number, also for the shorter stack. */
function layerOf(trace, layer) {
  const index = Math.min(layer, trace.layers.length - 1);
  return Object.fromEntries(
    Object.entries(trace.layers[index]).map(([name, part]) => [
      name,
      name === "output" ? part : { ...part, index },
    ]),
  );
}

function listen(config) {
  let timer;
  const later = () => {
    page.run++; // stops a search for what was there before
    document.body.dataset.state = "busy";
    clearTimeout(timer);
    timer = setTimeout(translate, 250);
  };
  $("sentence").addEventListener("input", later);
  $("sentence").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.isComposing) return;
    event.preventDefault();
    clearTimeout(timer);
    translate();
  });
  $("form").addEventListener("submit", (event) => event.preventDefault());
  $("examples").hidden = DATA.examples.length < 2;
  for (const example of DATA.examples) {
    const button = h("button", { type: "button" }, example);
    button.addEventListener("click", () => {
      $("sentence").value = example;
      translate();
    });
    $("examples").append(button);
  }
  addChoice("layer", Math.max(config.encoder_layers, config.decoder_layers), page.at.layer + 1, (layer) =>
    choose({ layer: layer - 1 }),
  );
  addChoice("head", config.num_attention_heads, 1, (head) => choose({ head: head - 1 }));
  addChoice("beams", Math.max(8, page.settings.beams), page.settings.beams, (beams) => {
    page.settings.beams = beams;
    translate();
  });
  $("alpha").value = page.settings.alpha;
  $("alpha").addEventListener("input", () => {
    page.settings.alpha = Number($("alpha").value);
    drawAlpha();
    later();
  });
  drawAlpha();
  const move = (step) => choose({ target: clamp(page.at.target + step, 0, page.targetIds.length - 1) });
  $("back").addEventListener("click", () => move(-1));
  $("forward").addEventListener("click", () => move(1));
  $("source-chips").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    choose({ source: (page.at.source + step + page.ids.length) % page.ids.length });
  });
  window.addEventListener("scroll", hideTooltip, { passive: true });
  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (width !== window.innerWidth) choose({}); // a phone's bars also change the height
    width = window.innerWidth;
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => choose({}));
}

const drawAlpha = () => ($("alpha-value").textContent = page.settings.alpha.toFixed(1));

function addChoice(id, count, chosen, onChange) {
  for (let number = 1; number <= count; number++) {
    const input = h("input", { type: "radio", name: id, value: number, checked: number === chosen });
    input.addEventListener("change", () => onChange(number));
    $(id).append(h("label", {}, input, h("span", {}, String(number))));
  }
}

/** The strip, and the pieces of the translation. */
function drawControls({ at, target, search, hypothesis }) {
  for (const name of ["layer", "head"]) {
    document.querySelector(`input[name=${name}][value="${at[name] + 1}"]`).checked = true;
  }
  $("back").setAttribute("aria-disabled", String(at.target === 0));
  $("forward").setAttribute("aria-disabled", String(at.target === target.ids.length - 1));
  $("step").replaceChildren(
    `${at.target + 1} of ${target.ids.length}: `,
    h("b", {}, target.writes[at.target]),
  );
  $("stepper-label").textContent =
    hypothesis === search.finished[0] ? "Writing" : "Writing another hypothesis";
  const pieces = target.writes.map((text, i) => {
    const button = h("button", { type: "button" }, h("bdi", {}, text));
    button.setAttribute("aria-current", String(i === at.target));
    button.addEventListener("click", () => choose({ target: i }));
    return button;
  });
  const hadFocus = $("written").contains(document.activeElement);
  $("written").replaceChildren(...pieces);
  if (hadFocus) pieces[at.target].focus();
}

/** Fills the texts that depend on the model. */
function describeModel(config) {
  const fills = {
    about: DATA.about,
    sizes:
      `It has ${(DATA.parameters / 1e6).toFixed(1)} million parameters: ` +
      `${config.encoder_layers} + ${config.decoder_layers} layers, ${config.num_attention_heads} heads, ` +
      `vectors of ${config.hidden_size} numbers.`,
    vocabulary: config.vocab_size.toLocaleString("en"),
    encoder_times: `${config.encoder_layers} ×`,
    decoder_times: `${config.decoder_layers} ×`,
    start: page.tokenizer.show(page.settings.start),
    end: page.tokenizer.show(page.settings.end[0]),
  };
  for (const element of document.querySelectorAll("[data-fill]")) {
    element.textContent = fills[element.dataset.fill] ?? config[element.dataset.fill];
  }
  document.body.classList.add(
    config.norm_position,
    config.position_embedding_type,
    config.tie_word_embeddings ? "tied" : "untied",
  );
}
