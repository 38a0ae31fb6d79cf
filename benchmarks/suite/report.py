"""The report of a run: numbers per second, ratios, MFU and memory, as Markdown and as pictures."""

import json
import shutil
import statistics
from pathlib import Path

DTYPES = {"ours bf16": "bf16", "ours int8": None, "CTranslate2 int8": None}  # of the products that MFU counts

BEGINS, ENDS = "<!-- the report begins -->", "<!-- the report ends -->"  # in a page that shows it


def seconds_of(step: dict) -> float:
    return step["wall"] / step["repeats"]


def summarise(row: dict, peak: dict[str, dict[str, float]]) -> dict[str, dict]:
    """What the steps of each peer amount to.

    Args:
        row: as `Suite.measure` returns it.
        peak: GFLOP/s by dtype and shape, as `Suite.peak` returns it; MFU is relative to the fastest shape.
    """
    reference, found = row["peers"].get(row["reference"]), {}
    for name, steps in row["peers"].items():
        seconds = statistics.median(map(seconds_of, steps))
        summary = {
            "seconds": seconds,
            "per_second": row["units"] / seconds,
            "disturbed": sum(step["disturbed"] for step in steps),
            "steps": len(steps),
            "memory": max((step["memory"] or 0 for step in steps), default=0),
            "device_memory": max((step.get("device_memory") or 0 for step in steps), default=0),
        }
        if reference:
            ratios = sorted(seconds_of(other) / seconds_of(own) for own, other in zip(steps, reference))
            summary["ratio"] = statistics.median(ratios)
            summary["ratios"] = [ratios[0], ratios[-1]]
        dtype = DTYPES.get(name, row["work"]["dtype"])
        if dtype is not None:
            fastest = max(peak[dtype].values())
            summary["mfu"] = row["operations"] / seconds / (fastest * 1e9)
        found[name] = summary
    return found


def one_line(found: dict, row: dict) -> str:
    """A peer's summary, to show while the suite runs."""
    ratio = f", {found['ratio']:.2f} times {row['reference']}" if "ratio" in found else ""
    disturbed = f", {found['disturbed']} of {found['steps']} steps disturbed" if found["disturbed"] else ""
    return f"{found['per_second']:,.0f} {row['unit']} per second{ratio}{disturbed}"


def save(results: dict, folder: Path) -> None:
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def write(results: dict, folder: Path, page: Path | None = None) -> None:
    """Write report.md and, where matplotlib is installed, the pictures.

    Args:
        page: a page that also shows the report between its markers; the pictures are copied beside it.
    """
    pictures = draw(results, folder)
    text = markdown(results, pictures)
    (folder / "report.md").write_text(text, encoding="utf-8")
    if page is not None:
        before, rest = page.read_text(encoding="utf-8").split(BEGINS)
        page.write_text(f"{before}{BEGINS}\n\n{text}\n{ENDS}{rest.split(ENDS)[1]}", encoding="utf-8")
        for picture in pictures.values():
            shutil.copy(folder / picture, page.parent)


def markdown(results: dict, pictures: dict[str, str]) -> str:
    machine, peak = results["machine"], results["peak"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    device = f"{machine['gpu']}, " if results["device"] == "cuda" else ""
    lines = [
        f"Measured on {machine['date']}: {device}{machine['cpu']}, {machine['cores']} cores, "
        f"{machine['threads']} threads, {machine['memory_gb']} GB, {machine['system']}; Python "
        f"{machine['python']}, {packages}. Command: `{results['command']}`.",
        "",
        "The machine's own matrix products, GFLOP/s:",
        "",
        "| product | " + " | ".join(peak) + " |",
        "|---" * (len(peak) + 1) + "|",
    ]
    for shape in next(iter(peak.values()), {}):
        lines.append(f"| {shape} | " + " | ".join(f"{found[shape]:,.0f}" for found in peak.values()) + " |")
    for row in results["rows"]:
        lines += ["", *table(row, peak)]
    if "rows" in pictures:
        lines += ["", f"![Speed relative to the reference of each row]({pictures['rows']})"]
    for curve in results["curves"]:
        lines += ["", *curve_table(curve)]
    if "curves" in pictures:
        lines += ["", f"![Seconds of a step as the work grows]({pictures['curves']})"]
    if results["failed"]:
        lines += ["", "Not measured:", ""]
        lines += [f"- {name}: {reason}" for name, reason in results["failed"].items()]
    return "\n".join(lines) + "\n"


def content(work: dict) -> str:
    """The work in words."""
    size, layers = work["size"], str(work["size"]["layers"])
    if work["task"] == "images":
        return f"{work['sentences']} images, width {size['width']}, {layers} layers"
    source, target = ("-".join(map(str, sorted(set(work[side])))) for side in ("source", "target"))
    targets = {"training": f" and {target} target", "decoding": f" into {target}"}.get(work["task"], "")
    sentences = f"{work['batches']} x {work['sentences']} sentences of {source}{targets} tokens"
    sizes = f"width {size['width']}, {layers}+{layers} layers, {size['vocabulary']:,} words"
    return f"{sentences}, {sizes}, {work['dtype']}"


def table(row: dict, peak: dict) -> list[str]:
    work, reference = row["work"], row["reference"]
    memory = "device_memory" if work["device"] == "cuda" else "memory"
    lines = [
        f"**{row['name']}**: {content(work)}",
        "",
        f"| | {row['unit']} per second | times {reference} | MFU | peak memory, MB | disturbed |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in summarise(row, peak).items():
        ratio = ""
        if "ratio" in found:
            low, high = found["ratios"]
            ratio = f"{found['ratio']:.2f} ({low:.2f} to {high:.2f})"
        mfu = f"{found['mfu']:.1%}" if "mfu" in found else ""
        disturbed = f"{found['disturbed']} of {found['steps']} steps"
        megabytes = f"{found[memory] / 2**20:,.0f}"
        lines.append(f"| {name} | {found['per_second']:,.0f} | {ratio} | {mfu} | {megabytes} | {disturbed} |")
    notes = [f"{name} did not run: {reason}." for name, reason in row["skipped"].items()]
    if work["task"] == "decoding":
        notes += [
            f"{share:.1%} of the tokens of {name} are those of {reference}."
            for name, share in row["agreement"].items()
            if share < 1
        ]
    return [*lines, "", *notes] if notes else lines


def curve_seconds(curve: dict) -> dict[str, list[tuple[float, float]]]:
    """The seconds of a step by peer: pairs of x and the median."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for point in curve["points"]:
        for name, steps in point["peers"].items():
            seconds = statistics.median(map(seconds_of, steps))
            lines.setdefault(name, []).append((point["x"], seconds))
    return lines


def curve_table(curve: dict) -> list[str]:
    lines = curve_seconds(curve)
    numbers = [point["x"] for point in curve["points"]]
    found = [
        f"**{curve['name']}**: milliseconds of a step.",
        "",
        f"| {curve['axis']} | " + " | ".join(f"{number:,}" for number in numbers) + " |",
        "|---" * (len(numbers) + 1) + "|",
    ]
    for name, points in lines.items():
        seconds = dict(points)
        cells = [f"{1000 * seconds[number]:,.1f}" if number in seconds else "" for number in numbers]
        found.append(f"| {name} | " + " | ".join(cells) + " |")
    return found


def draw(results: dict, folder: Path) -> dict[str, str]:
    """The names of the pictures that were written; none without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return {}
    written = {}
    rows = [(row["name"], summarise(row, results["peak"])) for row in results["rows"]]
    bars = [
        (f"{row}: {name}", peer["ratio"])
        for row, peers in rows
        for name, peer in peers.items()
        if "ratio" in peer
    ]
    if bars:
        figure = Figure(figsize=(8, 1 + 0.22 * len(bars)), layout="constrained")
        axes = figure.subplots()
        colours = ["tab:orange" if ": ours" in label else "tab:grey" for label, _ in bars]
        axes.barh([label for label, _ in bars], [ratio for _, ratio in bars], color=colours)
        axes.axvline(1, color="black", linewidth=0.8)
        axes.invert_yaxis()
        axes.tick_params(axis="y", labelsize=7)
        axes.set_xlabel("speed relative to the reference of the row; more is better")
        figure.savefig(folder / "speed.png", dpi=150)
        written["rows"] = "speed.png"
    if results["curves"]:
        across = (len(results["curves"]) + 1) // 2
        figure = Figure(figsize=(4 * across, 6), layout="constrained")
        panels = figure.subplots(2, across, squeeze=False).flat
        for axes, curve in zip(panels, results["curves"]):
            for name, points in curve_seconds(curve).items():
                axes.plot(*zip(*points), marker="o", markersize=3, label=name)
            axes.set(xscale="log", yscale="log", xlabel=curve["axis"], ylabel="seconds of a step")
            axes.set_xticks(ticks := [number for number, _ in points][:: 1 + len(points) // 5])
            axes.set_xticklabels(
                [f"{number:,}" if number < 1e6 else f"{number / 1e6:,.1f}M" for number in ticks]
            )
            axes.minorticks_off()
            axes.set_title(curve["name"], fontsize=9)
            axes.legend(fontsize=7)
        for axes in list(panels)[len(results["curves"]) :]:
            axes.set_axis_off()
        figure.savefig(folder / "scaling.png", dpi=150)
        written["curves"] = "scaling.png"
    return written
