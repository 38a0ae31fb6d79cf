"use strict";
// What the sections show. `view` is the state of the page: see `makeView` in page.js.

/** A heat map with one row per piece; `rowsOf(view)` returns its vectors or weights. */
class PieceMap {
  constructor(host, { title, scale, side, rowsOf, columnsOf, describe }) {
    this.options = { side, rowsOf, columnsOf };
    this.map = new Heatmap(host, {
      title,
      scale,
      describe: (row, column) => describe(this.view, row, column),
      onPick: (row, column) => {
        if (side === "source") choose({ source: row });
        else
          choose(
            columnsOf && columnsOf(this.view) === this.view.source.labels
              ? { target: row, source: column }
              : { target: row },
          );
      },
    });
  }

  draw(view) {
    const { side, rowsOf, columnsOf } = this.options;
    this.view = view;
    const isTarget = side === "target";
    this.map.draw({
      values: rowsOf(view),
      rows: !isTarget ? view.source.labels : columnsOf ? view.target.rows : view.target.labels,
      columns: columnsOf?.(view),
      picked: isTarget ? view.at.target : view.at.source,
      written: isTarget ? view.at.target + 1 : undefined,
    });
  }
}

/** A map of one vector for each piece, in a new figure. A formula explains each number. */
function vectorMap(host, side, title, rowsOf, formula, section) {
  return new PieceMap(host.appendChild(h("figure")), {
    title,
    side,
    rowsOf,
    describe: (view, row, column) => ({
      what: `${quoted(view, side, row)}, number ${column}`,
      formula: formula(view, row, column),
      section,
    }),
  });
}

/** Section 2. */
function embeddingViews() {
  const root = DATA.config.hidden_size ** 0.5;
  const formulas = {
    words: ({ id, column, part }) => ({
      formula: `E[${id}][${column}] · √${root ** 2} = ${exact(part.words / root)} · ${exact(root)}`,
      section: "3.4",
    }),
    positions: ({ row, column }) => ({ formula: positionFormula(row, column), section: "3.5" }),
    output: ({ part }) => ({ formula: `${exact(part.words)} + ${inSum(part.positions)}`, section: "3.5" }),
  };
  const make = (host, side, name, title, embedded) =>
    new PieceMap(host, {
      title,
      side,
      rowsOf: (view) => embedded(view)[name],
      describe: (view, row, column) => {
        const { ids, words, positions } = embedded(view);
        const part = { words: words[row][column], positions: positions[row][column] };
        return {
          what: `${quoted(view, side, row)}, number ${column}`,
          ...formulas[name]({ id: ids[row], row, column, part }),
        };
      },
    });
  const ofSource = (view) => view.encoded.embedded;
  const title = "Sum: what the first layer reads";
  return [
    make("words", "source", "words", "Embedding · √d", ofSource),
    make("positions", "source", "positions", "Position", ofSource),
    make("embedded", "source", "output", title, ofSource),
    make(
      "decoder-embedded",
      "target",
      "output",
      "What the decoder reads: embedding · √d + position",
      (view) => view.decoded.embedded,
    ),
  ];
}

function positionFormula(position, column) {
  if (DATA.config.position_embedding_type === "learned")
    return `learned vector ${position}, number ${column}`;
  const even = column - (column % 2);
  return `${column % 2 ? "cos" : "sin"}(${position} / 10000^(${even}/${DATA.config.hidden_size}))`;
}

const sumFormula = (layer) => (view, row, column) =>
  `${exact(layer(view).input[row][column])} + ${inSum(layer(view).sublayer[row][column])}`;

function normFormula(inputOf) {
  return (view, row, column) => {
    const x = inputOf(view)[row];
    const mean = x.reduce((sum, value) => sum + value, 0) / x.length;
    const variance = x.reduce((sum, value) => sum + (value - mean) ** 2, 0) / x.length;
    const numbers = `x = ${exact(x[column])}, mean = ${exact(mean)}, variance = ${exact(variance)}`;
    return `(x − mean) / √(variance + ε) · scale + shift\n${numbers}`;
  };
}

/** The feed-forward network of either stack, and the stack's last vectors. */
function feedForwardViews(stack, side, layerOf, traceOf) {
  const host = document.getElementById(`${stack}-feed-forward`);
  const isPre = DATA.config.norm_position === "pre";
  const fact = host.appendChild(h("p", { className: "fact" }));
  const vectors = (...given) => vectorMap(host, side, ...given);
  const ffn = layerOf;
  const sum = (view) => (isPre ? ffn(view).output : ffn(view).sum);
  const views = [];
  if (isPre)
    views.push(
      vectors(
        "Norm(x)",
        (view) => ffn(view).normed,
        normFormula((view) => ffn(view).input),
        "3.1",
      ),
    );
  views.push(
    vectors(
      "Hidden numbers, after ReLU",
      (view) => ffn(view).hidden,
      (_, row, column) => `max(0, row ${column} of W₁ · x + b₁)`,
      "3.3",
    ),
    vectors(
      isPre ? "FFN(Norm(x))" : "FFN(x)",
      (view) => ffn(view).sublayer,
      (_, row, column) => `row ${column} of W₂ · hidden + b₂`,
      "3.3",
    ),
    vectors(isPre ? "Output of the layer: x + FFN(Norm(x))" : "x + FFN(x)", sum, sumFormula(ffn), "3.1"),
  );
  if (!isPre)
    views.push(
      vectors("Output of the layer: Norm(x + FFN(x))", (view) => ffn(view).output, normFormula(sum), "3.1"),
    );
  const last =
    stack === "encoder"
      ? "Memory: the encoder’s output, after its last layer"
      : "The decoder’s output, after its last layer";
  const hasNorm = (view) => view.model.weights[`model.${stack}.norm.weight`];
  const lastLayer = (view) => traceOf(view).layers[traceOf(view).layers.length - 1].output;
  const finalFormula = (...at) =>
    hasNorm(at[0]) ? normFormula(lastLayer)(...at) : "output of the last layer";
  views.push(vectors(last, (view) => traceOf(view).output, finalFormula, "3.1"));
  const draw = (view) => {
    const row = side === "source" ? view.at.source : view.at.target;
    const hidden = ffn(view).hidden[row];
    const active = hidden.filter((value) => value > 0).length;
    fact.replaceChildren(
      `Layer ${ffn(view).index + 1}, ${quoted(view, side, row)}: `,
      h("b", {}, `${active} of ${hidden.length}`),
      " hidden numbers are active; the others are 0.",
    );
  };
  return [{ draw }, ...views];
}

/** Section 8: the most probable next pieces. */
function drawOutput(view) {
  const { model, decoded, target, at, tokenizer } = view;
  const logits = model.logits(decoded.output[at.target]);
  const logPs = logSoftmax(logits);
  const best = topK(logPs, 10);
  const written = target.ids[at.target];
  if (written !== undefined && !best.includes(written)) best.push(written);
  const bars = best.map((id) => {
    const probability = Math.exp(logPs[id]);
    const fill = h("i");
    fill.style.width = `${100 * probability}%`;
    return h(
      "li",
      {
        className: id === written ? "written" : "",
        title: `id ${id}: e^${exact(logits[id])} / Σ = ${exact(probability)}; log P = ${exact(logPs[id])}`,
      },
      h("bdi", { className: "name" }, tokenizer.show(id)),
      h("span", { className: "track" }, fill),
      h("span", { className: "number" }, percent(probability)),
      h("span", { className: "number logit" }, shortNumber(logits[id])),
    );
  });
  document
    .getElementById("top")
    .replaceChildren(
      h(
        "li",
        { className: "header" },
        "piece",
        h("span"),
        h("span", { className: "number" }, "probability"),
        h("span", { className: "number logit" }, "logit"),
      ),
      ...bars,
    );
  document.getElementById("so-far").textContent = target.labels.slice(0, at.target + 1).join(" ");
  const shown = best.reduce((sum, id) => sum + Math.exp(logPs[id]), 0);
  const others = (logits.length - best.length).toLocaleString("en");
  document.getElementById("rest").textContent =
    `The other ${others} pieces share ${percent(Math.max(0, 1 - shown))}. ` +
    "✓ marks what the shown hypothesis writes.";
}

/** Section 1. */
function drawPieces(view) {
  const { tokenizer, source, at, words } = view;
  const host = document.getElementById("source-chips");
  const hadFocus = host.contains(document.activeElement);
  const chips = source.ids.map((id, i) => {
    const shown = tokenizer.show(id);
    const text = shown.startsWith("␣") ? [h("i", {}, "␣"), shown.slice(1)] : [shown];
    const chip = h(
      "button",
      { type: "button", className: "chip" },
      h("bdi", {}, ...text),
      h("small", {}, String(id)),
    );
    chip.setAttribute("role", "radio");
    chip.setAttribute("aria-checked", String(i === at.source));
    chip.tabIndex = i === at.source ? 0 : -1;
    chip.addEventListener("click", () => choose({ source: i }));
    return chip;
  });
  host.replaceChildren(...chips);
  if (hadFocus) chips[at.source].focus();

  const word = words[source.wordOf[at.source]];
  const special = tokenizer.show(source.ids[at.source]);
  document.getElementById("merged-word").textContent = word ? word.word.trim() || "␣" : special;
  const steps = word
    ? word.steps.map((pieces, i) =>
        h(
          "li",
          {},
          ...pieces.map((piece) =>
            h("span", { className: i && !word.steps[i - 1].includes(piece) ? "new" : "" }, showName(piece)),
          ),
        ),
      )
    : [h("li", {}, "a special token: no text becomes it")];
  document.getElementById("merges").replaceChildren(...steps);
}

/** Section 9. */
function drawBeam(view) {
  const { search, hypothesis, at, tokenizer } = view;
  const best = search.finished[0];
  const label = (node) => shortLabel(tokenizer, node.token);
  drawTree(document.getElementById("tree"), search, {
    label,
    best,
    shown: hypothesis,
    now: at.target,
    onPick: (node) => choose({ hypothesis: node, target: node.length - 1 }),
  });
  const rows = search.finished.map((node) => {
    const button = h("button", { type: "button" }, tokenizer.decode(tokensOf(node)) || "(no text)");
    button.addEventListener("click", () => choose({ hypothesis: node, target: 0 }));
    const penalty = lengthPenalty(node.length, search.settings.alpha);
    const cells = [node.score, node.length, penalty, node.rank].map((value) =>
      h("td", { title: exact(value) }, Number.isInteger(value) ? String(value) : minus(value.toFixed(4))),
    );
    return h(
      "tr",
      { className: node === best ? "best" : "" },
      h("td", {}, h("bdi", {}, button), node === best ? " ✓ chosen" : ""),
      ...cells,
    );
  });
  refill(document.querySelector("#finished tbody"), ...rows);
  const { bound, best: rank, alive } = search.steps[search.steps.length - 1];
  const { alpha, limit } = search.settings;
  const reach =
    alpha > 0 ? `even with the penalty of the longest output, ${limit} pieces` : "at its next step";
  const why = alive.length
    ? `the best live hypothesis can reach at most s = ${exact(bound)}, ${reach}. ` +
      `The best finished one has ${exact(rank)}.`
    : "no hypothesis is alive.";
  document.getElementById("stop").textContent =
    `The search stopped after step ${search.steps.length}: ${why}`;
}

const quoted = (view, side, row) =>
  `“${side === "source" ? view.source.labels[row] : view.target.rows[row]}”`;
