"use strict";
// The tree of hypotheses that a beam search looked at: one column for each step, the best candidate on top.

const COLUMN = 112; // pixels
const ROW = 38;
const NODE = { width: 84, height: 30 };

/**
 * @param host the element to fill. @param search a BeamSearch.
 * @param options label(node): its text; best, shown: hypotheses; now: the step to mark; onPick(node).
 */
function drawTree(host, search, { label, best, shown, now, onPick }) {
  const most = Math.max(...search.steps.map(({ candidates }) => candidates.length));
  const [width, height] = [(search.steps.length + 1) * COLUMN, most * ROW + 34];
  const tree = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}` });
  const places = new Map([[search.root, { x: 14, y: 24 + ((most - 1) * ROW) / 2 }]]);
  search.steps.forEach(({ candidates }, step) =>
    candidates.forEach((node, i) => places.set(node, { x: 14 + (step + 1) * COLUMN, y: 24 + i * ROW })),
  );

  tree.append(svg("rect", { class: "now", x: 14 + (now + 1) * COLUMN - 14, y: 0, width: COLUMN, height }));
  const bestPath = new Set(pathOf(best));
  const shownPath = new Set(pathOf(shown));
  const fateOf = (node) => (bestPath.has(node) ? "best" : node.fate);
  const nodes = [...places.keys()];
  // The chosen path comes last, on top of the others.
  const edges = nodes.filter((node) => node.parent).sort((a, b) => bestPath.has(a) - bestPath.has(b));
  for (const node of edges) {
    const [from, to] = [places.get(node.parent), places.get(node)];
    const [x1, y1] = [from.x + NODE.width, from.y + NODE.height / 2];
    const [x2, y2] = [to.x, to.y + NODE.height / 2];
    const middle = (x1 + x2) / 2;
    tree.append(
      svg("path", {
        class: `edge ${fateOf(node)}`,
        d: `M${x1} ${y1}C${middle} ${y1} ${middle} ${y2} ${x2} ${y2}`,
      }),
    );
  }
  for (const node of nodes) tree.append(drawNode(node, places.get(node)));
  search.steps.forEach((_, step) => {
    const x = 14 + (step + 1) * COLUMN + NODE.width / 2;
    tree.append(svg("text", { class: "heading", x, y: 14 }, `step ${step + 1}`));
  });
  const isNew = host.search !== search;
  host.search = search;
  refill(host, tree);
  if (isNew) host.scrollLeft = 0;
  else scrollTo(14 + (now + 1) * COLUMN);

  /** Brings a column into view. */
  function scrollTo(x) {
    const farthest = x - COLUMN / 4;
    const nearest = x + COLUMN - host.clientWidth;
    host.scrollLeft = clamp(host.scrollLeft, nearest, Math.max(nearest, farthest));
  }

  function drawNode(node, { x, y }) {
    const isShown = shownPath.has(node) ? "shown" : "";
    const group = svg("g", { class: `node ${fateOf(node)} ${isShown}`, transform: `translate(${x} ${y})` });
    const round = node.fate === "ended" ? NODE.height / 2 : 6;
    group.append(svg("rect", { ...NODE, rx: round }));
    if (node.fate === "ended")
      group.append(
        svg("rect", { x: 3, y: 3, width: NODE.width - 6, height: NODE.height - 6, rx: round - 3 }),
      );
    const centre = { x: NODE.width / 2, "text-anchor": "middle" };
    group.append(svg("text", { ...centre, y: node.parent ? 13.5 : 19 }, label(node).slice(0, 11)));
    if (!node.parent) return group;
    group.append(svg("text", { ...centre, y: 25, class: "logp" }, number(node)));
    const name = `${label(node)}, step ${node.length}, log P ${exact(node.score)}`;
    for (const [key, value] of Object.entries({
      tabindex: 0,
      role: "button",
      "aria-label": `${name}, ${FATES[node.fate]}`,
    })) {
      group.setAttribute(key, value);
    }
    const show = (event) => {
      const bounds = group.getBoundingClientRect();
      showTooltip(describeNode(node), event.clientX ?? bounds.right, event.clientY ?? bounds.bottom - 12);
    };
    group.addEventListener("pointermove", show);
    group.addEventListener("focus", show);
    group.addEventListener("pointerleave", hideTooltip);
    group.addEventListener("blur", hideTooltip);
    group.addEventListener("click", () => onPick(node));
    group.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        onPick(node);
      }
    });
    return group;
  }

  function number(node) {
    return node.fate === "ended" ? `s ${minus(node.rank.toFixed(2))}` : minus(node.score.toFixed(2));
  }

  function describeNode(node) {
    const text = pathOf(node).map(label).join(" ");
    const sum = `log P(Y|X) = ${exact(node.parent.score)} + ${inSum(node.logP)} = ${exact(node.score)}`;
    if (node.fate !== "ended")
      return { what: `${text} (${FATES[node.fate]})`, value: node.score, formula: sum, section: "6.1" };
    const penalty = lengthPenalty(node.length, search.settings.alpha);
    const power = `((5 + ${node.length}) / 6)^${search.settings.alpha}`;
    const ranked = `s = ${exact(node.score)} / ${power} = ${exact(node.score)} / ${exact(penalty)}`;
    return { what: `${text} (finished)`, value: node.rank, formula: `${sum}\n${ranked}`, section: "6.1" };
  }
}

const FATES = { alive: "lives on", ended: "finished", dropped: "dropped" };

/** The nodes from the first token to this one. */
function pathOf(node) {
  return node.parent ? [...pathOf(node.parent), node] : [];
}

function svg(name, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}
