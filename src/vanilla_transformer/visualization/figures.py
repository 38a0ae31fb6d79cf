"""What all pictures share: a figure that saves the same file each time, colours, and labels that fit."""

from __future__ import annotations

import functools
import math
import os
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ParamSpec

from ..extras import extra

with extra("plot"):
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure
    from matplotlib.font_manager import fontManager
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import Normal, Stroke
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

Drawing = ParamSpec("Drawing")

# Okabe and Ito's colours, without the yellow that white paper hides; lines also differ in dashes.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 1)))
# Both rise in lightness without a turn, so they also order values in grey.
WEIGHTS, SIGNED = "Blues", "cividis"
VEIL = LinearSegmentedColormap.from_list("veil", ["#08306b00", "#08306bff"])  # over an image

# Fonts for characters that DejaVu lacks, if the machine has them.
FALLBACKS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "PingFang SC", "Hiragino Sans"),
    *("Microsoft YaHei", "MS Gothic", "Malgun Gothic", "WenQuanYi Zen Hei", "Droid Sans Fallback"),
    *("Noto Sans Devanagari", "Nirmala UI", "Noto Sans Thai", "Noto Sans Arabic", "Arial Unicode MS"),
)
STYLE: Any = {  # names of rcParams
    "font.family": [
        "DejaVu Sans",
        *(name for name in FALLBACKS if name in fontManager.get_font_names()),
        "sans-serif",
    ],
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],  # of the reader of an SVG
    "font.size": 10,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "vanilla-transformer",  # the same names each time
    "text.parse_math": False,  # a word may have two $
}
UNDATED: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
MISSING_GLYPH = re.compile(r"Glyph (\d+) .* missing from font")

LARGE_SIDE, SMALL_SIDE, LONGEST_AXIS = 0.4, 0.18, 24.0  # of a cell and of a heat map, in inches
SLANTED_FROM = 0.3  # inches between labels, below which they stand upright
LETTER = 0.095  # the width of one in inches, at 10 points


class Picture(Figure):
    """A figure outside pyplot, which keeps every figure. Saving it twice gives the same bytes."""

    def draw(self, renderer: Any) -> None:
        with matplotlib.rc_context(STYLE):
            super().draw(renderer)

    def savefig(self, fname: Any, **options: Any) -> None:
        """Saves PNG, SVG or PDF; warns once if no font of this machine has a character."""
        suffix = os.path.splitext(fname)[1] if isinstance(fname, str | os.PathLike) else ""
        kind = str(options.get("format") or suffix.lstrip(".") or "png").lower()
        if kind in UNDATED:
            options["metadata"] = UNDATED[kind] | (options.get("metadata") or {})
        with matplotlib.rc_context(STYLE), warnings.catch_warnings(record=True) as caught:
            super().savefig(fname, **options)
        missing = {found[1] for each in caught if (found := MISSING_GLYPH.match(str(each.message)))}
        for each in caught:
            if not MISSING_GLYPH.match(str(each.message)):
                warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
        if missing and kind != "svg":  # there, the reader's own fonts show the text
            shown = " ".join(sorted(chr(int(code)) for code in missing)[:20])
            warnings.warn(
                f"no font here has {shown}: install one, such as Noto Sans CJK, or save an SVG", stacklevel=2
            )


def styled(draw: Callable[Drawing, Picture]) -> Callable[Drawing, Picture]:
    """Gives the texts of a new figure their font."""

    @functools.wraps(draw)
    def draw_styled(*args: Drawing.args, **kwargs: Drawing.kwargs) -> Picture:
        with matplotlib.rc_context(STYLE), warnings.catch_warnings():
            warnings.filterwarnings("ignore", MISSING_GLYPH.pattern)  # saving warns
            return draw(*args, **kwargs)

    return draw_styled


def new_figure(width: float, height: float, layout: Any = "constrained") -> Picture:
    """Returns an empty figure of this size in inches."""
    return Picture(figsize=(width, height), dpi=120, layout=layout)


def panels(rows: int, columns: int, width: float = 5.5, height: float = 4.0) -> tuple[Picture, list[Axes]]:
    """Returns a figure with panels for curves, row by row."""
    figure = new_figure(width * columns, height * rows)
    axes = [figure.add_subplot(rows, columns, number + 1) for number in range(rows * columns)]
    for panel in axes:
        panel.grid(alpha=0.3)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    return figure, axes


def line_style(number: int) -> dict[str, Any]:
    """Returns the colour and dashes of the line of this number."""
    return {"color": COLORS[number % len(COLORS)], "linestyle": DASHES[number % len(DASHES)]}


def draw_box(axes: Axes, corners: Sequence[float], **style: Any) -> None:
    """Draws a rectangle with these sides: left, top, right, bottom, in the units of the axes."""
    left, top, right, bottom = corners
    axes.add_patch(Rectangle((left, top), right - left, bottom - top, **style))


def outlined(width: float) -> list[Any]:
    """Returns the effects that draw a line over a wider white one."""
    return [Stroke(linewidth=width, foreground="white"), Normal()]


def shorten(text: str, most: int = 18) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def length_of_axis(count: int, least: float = 1.7) -> float:
    """Returns the length in inches of an axis with so many cells; `least` has room for a colour bar."""
    side = min(LARGE_SIDE, max(SMALL_SIDE, 10 / count))
    return min(LONGEST_AXIS, max(least, count * side))


def room_for(labels: Iterable[str], share: float = 1.0) -> float:
    """Returns the width in inches of the longest label, times `share`."""
    return share * LETTER * max((len(shorten(label)) for label in labels), default=1)


def label_cells(axes: Axes, rows: Sequence[str], columns: Sequence[str], size: tuple[float, float]) -> None:
    """Writes the names of rows and columns, or every second, third, … where there is no room for all.

    Args:
        size: of the axes in inches, width and height.
    """
    small = min(size[0] / max(1, len(columns)), size[1] / max(1, len(rows))) < SLANTED_FROM
    font = 8 if small else 10
    for axis, names, length in ((axes.xaxis, columns, size[0]), (axes.yaxis, rows, size[1])):
        step = math.ceil(SMALL_SIDE * 0.95 * len(names) / length)
        shown = range(0, len(names), max(1, step))
        axis.set_ticks(list(shown), [shorten(names[index]) for index in shown])
    axes.tick_params(length=0, labelsize=font)
    upright = size[0] / max(1, len(columns)) < SLANTED_FROM
    for label in axes.get_xticklabels():
        angle, vertical = (90, "center") if upright else (45, "baseline")
        label.set(rotation=angle, rotation_mode="anchor", ha="left", va=vertical)


def heat_map(axes: Axes, weights: Any, most: float | None = None) -> Any:
    """Draws weights `(rows, columns)` from 0 to `most`, and white lines between the cells if they are few."""
    image = axes.imshow(weights, cmap=WEIGHTS, vmin=0, vmax=most, aspect="auto", interpolation="none")
    axes.spines[:].set_visible(False)
    if max(weights.shape) <= 40:
        for number in range(1, weights.shape[1]):
            axes.axvline(number - 0.5, color="white", linewidth=1.2)
        for number in range(1, weights.shape[0]):
            axes.axhline(number - 0.5, color="white", linewidth=1.2)
    return image


def color_bar(figure: Picture, image: Any, axes: Any, label: str, **options: Any) -> None:
    bar = figure.colorbar(image, ax=axes, label=label, **{"fraction": 0.04, "pad": 0.02, **options})
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)


def place_labels(
    axes: Axes,
    texts: Sequence[Text],
    places: Sequence[Sequence[tuple[float, float, str, str]]],
    points: Sequence[tuple[float, float]] = (),
) -> None:
    """Moves each text to the first of its places where it covers nothing, and removes it if there is none.

    The figure's layout is final afterwards. Texts that come first are placed first.

    Args:
        places: of each text, x and y in pixels of the figure, and its alignments to them.
        points: that no text may cover, in pixels of the figure.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    inside, taken = axes.get_window_extent(), [Bbox.from_bounds(x - 2, y - 2, 4, 4) for x, y in points]
    for text, candidates in zip(texts, places):
        text.set_transform(None)
        for x, y, horizontal, vertical in candidates:
            text.set(position=(x, y), ha=horizontal, va=vertical)
            box = text.get_window_extent().padded(1.5)
            within = (
                inside.x0 <= box.x0 and inside.y0 <= box.y0 and box.x1 <= inside.x1 and box.y1 <= inside.y1
            )
            if within and not box.count_overlaps(taken):
                taken.append(box)
                position = axes.transAxes.inverted().transform((x, y))
                text.set(position=position, transform=axes.transAxes)
                break
        else:
            text.remove()
