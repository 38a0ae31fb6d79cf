"""The report of grid.py: tables beside the paper's, intervals over seeds, a verdict on each finding."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.stats import t
from table3 import ROWS, SEEDS

BEGIN, END = "<!-- measured: made by recipes/paper/grid.py --report -->", "<!-- end of measured -->"
PICTURE = "![Differences to base of each row, here and in the paper](grid.svg)"
MEASURES = ("perplexity", "bleu")
# Learned and sinusoidal positions count as the same within these differences, in percent and in BLEU, chosen
# before the runs. The smallest losses that section 6.2 calls worse are 1.8% and 0.4 BLEU (32 heads).
SAME = {"perplexity": 2.0, "bleu": 0.5}

# What sections 5.4 and 6.2 say, and the rows and measures that show it. The numbers give the direction.
FINDINGS = {
    "One head is worse than eight": [("A-1-head", MEASURES)],
    "Too many heads are worse": [("A-32-heads", MEASURES)],
    "A smaller d_k hurts": [("B-head-dim-16", MEASURES), ("B-head-dim-32", MEASURES)],
    "Bigger models are better": [
        ("C-2-layers", MEASURES),
        ("C-4-layers", MEASURES),
        ("C-8-layers", ("perplexity",)),  # the paper's BLEU is lower than base's
        ("C-hidden-256", MEASURES),
        ("C-hidden-1024", MEASURES),
        ("C-intermediate-1024", MEASURES),
        ("C-intermediate-4096", MEASURES),
        ("big", MEASURES),
    ],
    "Dropout helps": [("D-dropout-0.0", MEASURES)],
    "Learned positions do as well as sinusoids": [("E-learned-positions", MEASURES)],
    "Label smoothing hurts perplexity": [
        ("D-smoothing-0.0", ("perplexity",)),
        ("D-smoothing-0.2", ("perplexity",)),
    ],
    "Label smoothing helps BLEU": [("D-smoothing-0.0", ("bleu",))],
}

Verdict = Literal["repeats", "reversed", "undecided"]


@dataclass(frozen=True)
class Interval:
    """A mean and half of the width of its 95% interval; None with one value."""

    mean: float
    half: float | None

    def text(self, form: str) -> str:
        half = "" if self.half is None else f" ± {format(self.half, form.lstrip('+'))}"
        return f"{self.mean:{form}}{half}"


def interval(values: Sequence[float]) -> Interval:
    """Return the mean with Student's t interval."""
    count = len(values)
    if count < 2:
        return Interval(values[0], None)
    half = t.ppf(0.975, count - 1) * np.std(values, ddof=1) / math.sqrt(count)
    return Interval(float(np.mean(values)), float(half))


class Grid:
    """The finished runs.

    Raises:
        ValueError: base has no run, or the runs differ in data or updates, or those of one row in settings.
    """

    def __init__(self, runs: Sequence[dict]):
        self.runs = {(run["row"], run["seed"]): run for run in runs if run["row"] in ROWS}
        if not self.seeds("base"):
            raise ValueError("the results hold no run of the row base, and every row is compared with it")
        for key in ("data", "updates", "bleu_signature"):
            if len(kinds := {str(run[key]) for run in self.runs.values()}) > 1:
                raise ValueError(f"the results mix runs with different {key}: {'; '.join(sorted(kinds))}")
        for row in ROWS:
            if len({self.runs[row, seed]["setup"] for seed in self.seeds(row)}) > 1:
                raise ValueError(f"the results mix runs of {row} with different settings")

    def seeds(self, row: str) -> list[int]:
        return sorted(seed for name, seed in self.runs if name == row)

    def score(self, row: str, measure: str) -> Interval:
        return interval([self.runs[row, seed][measure] for seed in self.seeds(row)])

    def differences(self, row: str, measure: str) -> list[float]:
        """Return the differences to base of the seeds that both have."""
        seeds = [seed for seed in self.seeds(row) if ("base", seed) in self.runs]
        pairs = [(self.runs[row, seed][measure], self.runs["base", seed][measure]) for seed in seeds]
        return [difference(own, base, measure) for own, base in pairs]

    def pooled_half(self, measure: str) -> float | None:
        """Return half of the width of a difference's interval if all rows have one spread; None if unknown.

        The spread is the residual of a model with one effect for each row and one for each seed. It is
        fitted to the rows that have the seeds of base.
        """
        seeds = self.seeds("base")
        rows = [row for row in ROWS if self.seeds(row) == seeds]
        if len(seeds) < 2 or len(rows) < 2:
            return None
        values = np.array([[self.runs[row, seed][measure] for seed in seeds] for row in rows])
        if measure == "perplexity":
            values = 100 * np.log(values)
        residuals = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
        degrees = (len(rows) - 1) * (len(seeds) - 1)
        variance = (residuals**2).sum() / degrees
        return float(t.ppf(0.975, degrees) * math.sqrt(2 * variance / len(seeds)))


def difference(own: float, base: float, measure: str) -> float:
    return 100 * math.log(own / base) if measure == "perplexity" else own - base


def paper_difference(row: str, measure: str) -> float:
    return difference(getattr(ROWS[row], measure), getattr(ROWS["base"], measure), measure)


def judge(row: str, measure: str, found: Interval) -> Verdict:
    """Return whether an interval lies on the paper's side of base, on the other, or on both."""
    if found.half is None:
        return "undecided"
    low, high = found.mean - found.half, found.mean + found.half
    if row == "E-learned-positions":
        same = SAME[measure]
        if -same <= low and high <= same:
            return "repeats"
        return "reversed" if low > same or high < -same else "undecided"
    if paper_difference(row, measure) < 0:
        low, high = -high, -low
    return "repeats" if low > 0 else "reversed" if high < 0 else "undecided"


def comparisons(finding: str) -> Iterator[tuple[str, str]]:
    """Yield row and measure of a finding."""
    for row, measures in FINDINGS[finding]:
        for measure in measures:
            yield row, measure


def conclude(verdicts: Sequence[Verdict]) -> str:
    """Return one verdict for all comparisons of a finding."""
    kinds = set(verdicts)
    if kinds == {"repeats"}:
        return "repeats"
    if {"repeats", "reversed"} <= kinds:
        return "repeats in part"
    if "reversed" in kinds:
        return "does not repeat"
    return "repeats where decided" if "repeats" in kinds else "undecided"


def findings_table(grid: Grid) -> str:
    rows = [["the paper's finding", "verdict", "row and measure: difference to base (the paper's)"]]
    for finding in FINDINGS:
        verdicts, details = [], []
        for row, measure in comparisons(finding):
            if not (values := grid.differences(row, measure)):
                details.append(f"{row}: not run yet")
                continue
            found = interval(values)
            verdicts.append(judge(row, measure, found))
            name, unit, form = (
                ("perplexity", "%", "+.1f") if measure == "perplexity" else ("BLEU", "", "+.1f")
            )
            paper = f"{paper_difference(row, measure):+.1f}{unit}"
            details.append(f"{row}, {name}: {found.text(form)}{unit} ({paper}), {verdicts[-1]}")
        rows.append([finding, f"**{conclude(verdicts)}**", "<br>".join(dict.fromkeys(details))])
    return markdown(rows)


def scores_table(grid: Grid) -> str:
    titles = ["row", "paper: perplexity", "BLEU", "million parameters", "here: perplexity", "BLEU", "chrF"]
    rows = [[*titles, "parameters", "seeds"]]
    for row, paper in ROWS.items():
        printed = [row, f"{paper.perplexity:.2f}", f"{paper.bleu:.1f}", str(paper.millions or "")]
        if not (seeds := grid.seeds(row)):
            rows.append([*printed, "not run yet", "", "", "", "0"])
            continue
        scores = [grid.score(row, "perplexity").text(".2f")]
        scores += [grid.score(row, measure).text(".1f") for measure in ("bleu", "chrf")]
        rows.append([*printed, *scores, f"{grid.runs[row, seeds[0]]['parameters']:,}", str(len(seeds))])
    return markdown(rows)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def report(runs: Sequence[dict]) -> str:
    """Return the measured part of the README."""
    if not runs:
        return "No run is finished yet."
    grid = Grid(runs)
    total = sum(len(grid.seeds(row)) for row in ROWS)
    base = grid.runs["base", grid.seeds("base")[0]]
    hours = sum(run["seconds"] for run in grid.runs.values()) / 3600
    lines = [
        f"{total} of {len(ROWS) * SEEDS} runs are done, of {base['updates']:,} updates each, in {hours:.1f} "
        f"hours on {base['hardware']}, beside other work. ± is a 95% interval over the seeds (Student's t). "
        "A row with one seed has none and decides nothing. Differences are paired by seed; those of "
        f"perplexity are 100 · ln(row / base). BLEU: `{base['bleu_signature']}`.",
        findings_table(grid),
    ]
    halves = {measure: grid.pooled_half(measure) for measure in MEASURES}
    if None not in halves.values():
        lines.append(
            "Few seeds make wide intervals. If every row has the same spread over seeds, the pooled 95% "
            f"interval of a difference to base is ± {halves['perplexity']:.1f}% of perplexity and "
            f"± {halves['bleu']:.1f} BLEU."
        )
    return "\n\n".join([*lines, PICTURE, scores_table(grid)])


def with_report(readme: str, measured: str) -> str:
    """Return the README with this report between its two markers."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"the README needs these two lines around the report: {BEGIN} and {END}")
    return f"{before}{begin}\n{measured}\n{end}{after}"


def write_report(runs: Sequence[dict], folder: Path) -> None:
    """Write the report into README.md of a folder, and the picture grid.svg beside it."""
    readme = folder / "README.md"
    readme.write_text(with_report(readme.read_text(encoding="utf-8"), report(runs)), encoding="utf-8")
    if runs:
        draw(Grid(runs), folder / "grid.svg")


def draw(grid: Grid, path: Path) -> None:
    """Draw the differences to base with their intervals, beside the paper's."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = [row for row in ROWS if row != "base" and grid.differences(row, "bleu")]
    titles = {"perplexity": "perplexity, 100 · ln(row / base)", "bleu": "BLEU, row - base"}
    with plt.rc_context({"svg.hashsalt": "grid", "font.size": 9}):
        figure, panels = plt.subplots(
            1, 2, figsize=(9, 0.3 * len(rows) + 1.2), sharey=True, layout="constrained"
        )
        for panel, measure in zip(panels, MEASURES):
            found = [interval(grid.differences(row, measure)) for row in rows]
            panel.axvline(0, color="grey", linewidth=0.8)
            panel.errorbar(
                [each.mean for each in found],
                range(len(rows)),
                xerr=[each.half or 0 for each in found],
                fmt="o",
                label="here, 95% interval",
            )
            paper = [paper_difference(row, measure) for row in rows]
            panel.plot(paper, range(len(rows)), "D", fillstyle="none", color="black", label="the paper")
            panel.set_xlabel(titles[measure])
        panels[0].set_yticks(range(len(rows)), rows)
        panels[0].invert_yaxis()
        panels[0].legend()
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)
