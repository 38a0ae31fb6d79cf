"use strict";
// A matrix as colours, with words beside it and the exact numbers on hover, tap or arrow keys.

const NARROW = 11; // pixels of text in labels
const LABEL_FONT = `${NARROW}px ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace`;

class Heatmap {
  /**
   * @param host the element to fill, or its id.
   * @param options
   *   title: text above the matrix.
   *   scale: "signed" (blue, 0, orange) or "share" (0 to 1).
   *   describe(row, column): {what, value, formula, section} of a cell, for the tooltip.
   *   onPick(row, column): a click or Enter on a cell; optional.
   */
  constructor(host, { title, scale = "signed", describe, onPick }) {
    Object.assign(this, { scale, describe, onPick, cursor: null });
    this.host = typeof host === "string" ? document.getElementById(host) : host;
    this.canvas = h("canvas", { tabIndex: 0, role: "application" });
    this.legend = h("span", { className: "scale" });
    this.title = title;
    this.canvas.setAttribute("aria-roledescription", "heat map");
    this.canvas.setAttribute("aria-label", `${title}. Arrow keys read its numbers.`);
    this.host.classList.add("heat");
    this.host.append(h("figcaption", {}, h("b", {}, title), this.legend), this.canvas);
    this.listen();
  }

  /**
   * @param matrix values: rows of numbers, where a short row is masked at its end; rows, columns: labels, of
   *     which columns may be missing; picked: a row to mark; written: rows after the first `written` are not shown.
   */
  draw(matrix) {
    this.matrix = matrix;
    const { values, rows, columns, written = values.length } = matrix;
    if (this.host.closest("details:not([open])")) return; // drawn when it opens
    const available = this.host.clientWidth;
    const count = columns ? columns.length : Math.max(...values.map((row) => row.length));
    const context = this.canvas.getContext("2d");
    context.font = LABEL_FONT;
    const labelWidth = (labels) =>
      Math.max(...labels.map((text) => context.measureText(shorten(text)).width));
    this.left = Math.ceil(labelWidth(rows)) + 8;
    const slant = columns ? Math.ceil(labelWidth(columns) * Math.SQRT1_2) + 10 : 0;
    this.top = columns ? slant + 4 : 4;
    const right = columns ? Math.min(slant, 60) : 1;
    this.cell = columns
      ? { width: clamp((available - this.left - right) / count, 11, 40), height: 0 }
      : { width: (available - this.left - right) / count, height: clamp(240 / values.length, 7, 15) };
    if (columns) this.cell.height = Math.min(this.cell.width, 28);
    const width = Math.ceil(this.left + count * this.cell.width + right);
    const height = Math.ceil(this.top + values.length * this.cell.height + 4);
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = width * ratio;
    this.canvas.height = height * ratio;
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${height}px`;
    context.scale(ratio, ratio);
    context.font = LABEL_FONT;
    this.size = { rows: values.length, columns: count };

    const colours = new Colours(this.scale, values.slice(0, written));
    this.legend.replaceChildren(...colours.legend());
    for (let row = 0; row < values.length; row++) {
      for (let column = 0; column < count; column++) {
        const [x, y, w, z] = this.box(row, column);
        if (row >= written) continue;
        context.fillStyle =
          column < values[row].length ? colours.of(values[row][column]) : colours.masked(context);
        context.fillRect(x, y, w, z);
      }
    }
    context.strokeStyle = colours.line;
    context.strokeRect(
      this.left + 0.5,
      this.top + 0.5,
      count * this.cell.width,
      values.length * this.cell.height,
    );
    this.drawLabels(context, colours);
    if (matrix.picked != null) {
      context.strokeStyle = colours.ink;
      context.lineWidth = 1.5;
      const [x, y, , z] = this.box(matrix.picked, 0);
      context.strokeRect(x, y, count * this.cell.width, z);
    }
    if (this.cursor) {
      context.strokeStyle = colours.focus;
      context.lineWidth = 2.5;
      context.strokeRect(...this.box(...this.cursor));
    }
  }

  drawLabels(context, colours) {
    const { rows, columns, picked, written = rows.length } = this.matrix;
    context.textBaseline = "middle";
    context.textAlign = "right";
    const every = Math.ceil(NARROW / this.cell.height);
    rows.forEach((text, row) => {
      if (row % every && row !== picked) return;
      context.globalAlpha = row < written ? 1 : 0.35;
      context.fillStyle = row === picked ? colours.ink : colours.soft;
      context.fillText(shorten(text), this.left - 6, this.top + (row + 0.5) * this.cell.height);
    });
    context.globalAlpha = 1;
    context.textAlign = "left";
    (columns ?? []).forEach((text, column) => {
      context.save();
      context.translate(this.left + (column + 0.5) * this.cell.width, this.top - 4);
      context.rotate(-Math.PI / 4);
      context.fillStyle = colours.soft;
      context.fillText(shorten(text), 0, 0);
      context.restore();
    });
  }

  /** x, y, width and height of a cell, on whole pixels, so that no seams show. */
  box(row, column) {
    const [x, y] = [this.left + column * this.cell.width, this.top + row * this.cell.height].map(Math.round);
    const right = Math.round(this.left + (column + 1) * this.cell.width);
    const bottom = Math.round(this.top + (row + 1) * this.cell.height);
    return [x, y, right - x, bottom - y];
  }

  listen() {
    const { canvas } = this;
    const at = (event) => {
      const bounds = canvas.getBoundingClientRect();
      const row = Math.floor((event.clientY - bounds.top - this.top) / this.cell.height);
      const column = Math.floor((event.clientX - bounds.left - this.left) / this.cell.width);
      return this.size && row >= 0 && column >= 0 && row < this.size.rows && column < this.size.columns
        ? [row, column]
        : null;
    };
    canvas.addEventListener("pointermove", (event) => this.point(at(event), event));
    canvas.addEventListener("pointerleave", () => this.point(null));
    canvas.addEventListener("blur", () => this.point(null));
    canvas.addEventListener("click", (event) => {
      const cell = at(event);
      if (cell && this.onPick) this.onPick(...cell);
      this.point(cell, event);
    });
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (step && this.size) {
        event.preventDefault();
        const [row, column] = this.cursor ?? [this.matrix.picked ?? 0, -1];
        this.point([
          clamp(row + step[0], 0, this.size.rows - 1),
          clamp(column + step[1], 0, this.size.columns - 1),
        ]);
      }
      if (event.key === "Enter" && this.cursor && this.onPick) this.onPick(...this.cursor);
      if (event.key === "Escape") this.point(null);
    });
  }

  /** Marks a cell and shows its numbers, at the pointer or beside the cell. */
  point(cell, event) {
    const moved = String(cell) !== String(this.cursor);
    this.cursor = cell;
    if (moved && this.matrix) this.draw(this.matrix);
    if (!cell) return hideTooltip();
    const [x, y, width] = this.box(...cell);
    const bounds = this.canvas.getBoundingClientRect();
    showTooltip(
      this.text(...cell),
      event?.clientX ?? bounds.left + x + width,
      event?.clientY ?? bounds.top + y,
    );
  }

  text(row, column) {
    const { values, written = values.length } = this.matrix;
    if (row >= written) return { what: "not written yet" };
    if (column >= values[row].length) {
      return { what: "masked", formula: "A piece does not see later pieces.", section: "3.2.3" };
    }
    return { value: values[row][column], ...this.describe(row, column) };
  }
}

/** The colours of a matrix, from the style sheet: they follow light and dark. */
class Colours {
  constructor(scale, values) {
    const style = getComputedStyle(document.documentElement);
    const named = (name) => style.getPropertyValue(`--${name}`).trim();
    this.scale = scale;
    [this.ink, this.soft, this.line, this.focus] = ["ink", "soft", "line", "focus"].map(named);
    [this.zero, this.negative, this.positive, this.share] = ["panel", "negative", "positive", "share"]
      .map(named)
      .map(rgb);
    this.most =
      scale === "share"
        ? 1
        : Math.max(1e-9, ...values.map((row) => row.reduce((m, x) => Math.max(m, Math.abs(x)), 0)));
  }

  of(value) {
    const end = this.scale === "share" ? this.share : value < 0 ? this.negative : this.positive;
    const part = Math.min(1, Math.abs(value) / this.most);
    return `rgb(${this.zero.map((zero, i) => Math.round(zero + (end[i] - zero) * part))})`;
  }

  /** Hatching, for what a mask hides. */
  masked(context) {
    if (!this.hatching) {
      const tile = h("canvas", { width: 6, height: 6 });
      const pen = tile.getContext("2d");
      pen.strokeStyle = this.line;
      pen.stroke(new Path2D("M-1 7 7-1M-1 1 1-1M5 7 7 5"));
      this.hatching = context.createPattern(tile, "repeat");
    }
    return this.hatching;
  }

  legend() {
    const bar = h("i");
    const [low, high] =
      this.scale === "share" ? ["0", "1"] : [`${shortNumber(-this.most)}`, `${shortNumber(this.most)}`];
    const stops = this.scale === "share" ? [0, 0.5, 1] : [-1, -0.5, 0, 0.5, 1];
    const colours = stops.map((stop) => this.of(stop * this.most));
    bar.style.background = `linear-gradient(to right, ${colours})`;
    return [low, bar, high];
  }
}

function showTooltip({ what, value, formula, section }, x, y) {
  const tooltip = document.getElementById("tooltip");
  const parts = [h("span", {}, what)];
  if (value !== undefined) parts.push(h("b", {}, exact(value)));
  if (formula) parts.push(h("code", {}, formula));
  if (section) parts.push(h("small", {}, `section ${section}`));
  tooltip.replaceChildren(...parts);
  tooltip.hidden = false;
  const { offsetWidth: width, offsetHeight: height } = tooltip;
  tooltip.style.left = `${clamp(x + 16, 4, window.innerWidth - width - 4)}px`;
  tooltip.style.top = `${y + 20 + height > window.innerHeight ? Math.max(4, y - height - 12) : y + 20}px`;
}

function hideTooltip() {
  document.getElementById("tooltip").hidden = true;
}

/** Makes an element. Children that are strings become text, never HTML. */
function h(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

/** Replaces what an element holds; the focus stays on the button of the same number. */
function refill(host, ...children) {
  const buttons = () => [...host.querySelectorAll("button, [role=button]")];
  const focused = buttons().indexOf(document.activeElement);
  host.replaceChildren(...children);
  if (focused >= 0) buttons()[focused]?.focus({ preventScroll: true });
}

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const shorten = (text) => (text.length > 17 ? `${text.slice(0, 16)}…` : text);
const minus = (text) => text.replace("-", "−").replace("e-", "e−");
const exact = (value) => minus(String(Number(value.toPrecision(6))));
const inSum = (value) => (value < 0 ? `(${exact(value)})` : exact(value));
const shortNumber = (value) => minus(String(Number(value.toPrecision(3))));
const percent = (share) => `${share >= 0.0005 || share === 0 ? (100 * share).toFixed(1) : "<0.1"}%`;

function rgb(hex) {
  const digits = hex.slice(1);
  return [0, 2, 4].map((i) => parseInt(digits.slice(i, i + 2), 16));
}
