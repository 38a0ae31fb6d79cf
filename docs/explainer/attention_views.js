"use strict";
// Sections 3, 5 and 6: what an attention computed, for the chosen layer and head.

/**
 * Everything about one of the three attentions.
 *
 * @param kind "encoder", "self" or "cross".
 * @param options layerOf(view): its part of a layer's trace; layers: their number; asks, answers: the sides,
 *     "source" or "target", of queries and of keys; heading(view): the end of its title.
 */
function attentionViews(kind, { layerOf, layers, asks, answers, heading }) {
  const host = document.getElementById(`${kind}-attention`);
  const block = (className) => host.appendChild(h("div", { className }));
  const isPre = DATA.config.norm_position === "pre";
  const head = (view) => layerOf(view).heads[view.at.head];
  const width = DATA.config.head_dim;
  const keyLabels = (view) => (answers === "source" ? view.source.labels : view.target.labels);
  const title = host.appendChild(h("h3"));
  const gaze = block(`gaze ${answers}`);
  const views = [];

  const matrix = (into, options) =>
    views.push(new PieceMap(into.appendChild(h("figure")), { side: asks, columnsOf: keyLabels, ...options }));
  const pair = block("pair");
  const pairOf = (view, row, column) =>
    `${quoted(view, asks, row)} asks, “${keyLabels(view)[column]}” answers`;
  matrix(pair, {
    title: "Scores: Q Kᵀ / √dₖ",
    rowsOf: (view) => head(view).scores,
    describe: (view, row, column) => {
      const product = dot(head(view).queries[row], head(view).keys[column]);
      return {
        what: pairOf(view, row, column),
        formula: `q · k / √${width} = ${exact(product)} / ${exact(width ** 0.5)}`,
        section: "3.2.1",
      };
    },
  });
  matrix(pair, {
    title: "Attention: softmax of each row",
    scale: "share",
    rowsOf: (view) => head(view).weights,
    describe: (view, row, column) => {
      const scores = head(view).scores[row];
      const power = Math.exp(scores[column]);
      const sum = scores.reduce((total, score) => total + Math.exp(score), 0);
      return {
        what: pairOf(view, row, column),
        formula: `e^${exact(scores[column])} / Σ e^score = ${exact(power)} / ${exact(sum)}`,
        section: "3.2.1",
      };
    },
  });

  const vectors = (...given) => views.push(vectorMap(...given));
  host.append(h("h3", {}, "Queries, keys and values of this head"));
  const triple = block("triple");
  const projection = (name, states, size) => (view, row, column) =>
    `row ${view.at.head * size + column} of ${name} · ${states} + bias`;
  const asked = isPre ? "Norm(x)" : "x";
  const memory = kind === "cross" ? "memory" : asked;
  vectors(triple, asks, "Queries", (view) => head(view).queries, projection("W^Q", asked, width), "3.2.2");
  vectors(triple, answers, "Keys", (view) => head(view).keys, projection("W^K", memory, width), "3.2.2");
  vectors(
    triple,
    answers,
    "Values",
    (view) => head(view).values,
    projection("W^V", memory, DATA.config.value_dim),
    "3.2.2",
  );

  const details = host.appendChild(
    h("details", {}, h("summary", {}, "All vectors of this sublayer, in order")),
  );
  details.addEventListener("toggle", () => choose({}));
  const layer = layerOf;
  const sublayer = isPre ? "Sublayer(Norm(x))" : "Sublayer(x)";
  vectors(
    details,
    asks,
    "x: input of the sublayer",
    (view) => layer(view).input,
    () => "output of what comes before",
    "3.1",
  );
  if (isPre)
    vectors(
      details,
      asks,
      "Norm(x)",
      (view) => layer(view).normed,
      normFormula((view) => layer(view).input),
      "3.1",
    );
  vectors(
    details,
    asks,
    "Output of this head: attention · values",
    (view) => head(view).outputs,
    headFormula(head),
    "3.2.1",
  );
  vectors(
    details,
    asks,
    `${sublayer}: Concat(heads) · W^O`,
    (view) => layer(view).sublayer,
    (_, row, column) =>
      `row ${column} of W^O · Concat(head 1, …, head ${DATA.config.num_attention_heads}) + bias`,
    "3.2.2",
  );
  const sum = (view) => (isPre ? layer(view).output : layer(view).sum);
  vectors(details, asks, `x + ${sublayer}`, sum, sumFormula(layer), "3.1");
  if (!isPre)
    vectors(details, asks, "Norm(x + Sublayer(x))", (view) => layer(view).output, normFormula(sum), "3.1");

  host.append(h("h3", {}, "Every head at a glance"));
  const glance = new Glance(block("glance"), layers, kind);
  return [
    {
      draw(view) {
        const row = asks === "source" ? view.at.source : view.at.target;
        title.textContent = `Layer ${layer(view).index + 1}, head ${view.at.head + 1}: ${heading(view)}`;
        pair.classList.toggle("stacked", keyLabels(view).length > 20);
        drawGaze(gaze, keyLabels(view), head(view).weights[row]);
        glance.draw(view);
      },
    },
    ...views,
  ];
}

function headFormula(head) {
  return (view, row, column) => {
    const { weights, values } = head(view);
    const parts = weights[row].map((weight, j) => ({ weight, value: values[j][column] }));
    const most = parts.sort((a, b) => b.weight - a.weight).slice(0, 3);
    const shown = most
      .map(({ weight, value }) => `${shortNumber(weight)} · ${shortNumber(value)}`)
      .join(" + ");
    return `Σ share · value = ${shown}${parts.length > 3 ? " + …" : ""}`;
  };
}

/** Bars over the words: whom one piece looks at. */
function drawGaze(host, labels, weights) {
  host.replaceChildren(
    ...labels.slice(0, weights.length).map((label, i) => {
      const bar = h("i");
      bar.style.height = `${100 * weights[i]}%`;
      return h(
        "div",
        {},
        h("span", { className: "bar" }, bar),
        h("bdi", {}, label),
        h("small", {}, percent(weights[i])),
      );
    }),
  );
}

/** One small picture of the attention of each layer and head. */
class Glance {
  constructor(host, layers, kind) {
    this.kind = kind;
    const heads = DATA.config.num_attention_heads;
    host.style.gridTemplateColumns = `auto repeat(${heads}, auto)`;
    host.append(h("span"), ...Array.from({ length: heads }, (_, head) => h("span", {}, `head ${head + 1}`)));
    this.buttons = Array.from({ length: layers * heads }, (_, i) => {
      const [layer, head] = [Math.floor(i / heads), i % heads];
      const button = h("button", { type: "button" }, h("canvas"));
      button.setAttribute("aria-label", `layer ${layer + 1}, head ${head + 1}`);
      button.addEventListener("click", () => choose({ layer, head }));
      if (!head) host.append(h("span", {}, `layer ${layer + 1}`));
      host.append(button);
      return { button, layer, head };
    });
  }

  draw(view) {
    const trace = this.kind === "encoder" ? view.encoded : view.decoded;
    const part = this.kind === "cross" ? "cross" : "self";
    const colours = new Colours("share", []);
    for (const { button, layer, head } of this.buttons) {
      const { weights } = trace.layers[layer][part].heads[head];
      const canvas = button.firstChild;
      canvas.height = weights.length;
      canvas.width = Math.max(...weights.map((row) => row.length));
      const context = canvas.getContext("2d");
      const written = this.kind === "encoder" ? weights.length : view.at.target + 1;
      weights.slice(0, written).forEach((row, y) =>
        row.forEach((weight, x) => {
          context.fillStyle = colours.of(weight);
          context.fillRect(x, y, 1, 1);
        }),
      );
      const chosen = Math.min(view.at.layer, trace.layers.length - 1) === layer && view.at.head === head;
      button.setAttribute("aria-pressed", String(chosen));
    }
  }
}
