"""The tables of measured results in recipes/*/README.md, made from what the runs themselves left.

    python tools/collect_results.py                 # write the tables anew from recipes/*/results/*.json
    python tools/collect_results.py outputs/sst2    # first take over the results.json of a run of sst2.yaml

A run belongs to the recipe whose output_dir its folder is named after. What a table shows stands in the run's
own file; nothing is typed in by hand.
"""

import json
import shutil
import sys
from pathlib import Path

RECIPES = Path(__file__).parents[1] / "recipes"
BEGIN, END = "<!-- measured: made by tools/collect_results.py -->", "<!-- end of measured -->"

# What is shown of each task, in this order, and how.
SCORES = {
    "bleu": ("BLEU", "{:.1f}"),
    "chrf": ("chrF", "{:.1f}"),
    "rouge1": ("ROUGE-1", "{:.1f}"),
    "rouge2": ("ROUGE-2", "{:.1f}"),
    "rougeL": ("ROUGE-L", "{:.1f}"),
    "accuracy": ("accuracy", "{:.1%}"),
    "f1": ("F1", "{:.3f}"),
    "f1_macro": ("macro F1", "{:.3f}"),
    "map": ("mAP@[.5:.95]", "{:.3f}"),
    "map_50": ("mAP@.5", "{:.3f}"),
    "bits_per_character": ("bits per character", "{:.3f}"),
    "perplexity": ("perplexity", "{:.1f}"),
}


def table(folder: Path) -> str:
    """Markdown: one row for each recipe that was run, with its last split's scores."""
    runs = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("results/*.json"))}
    if not runs:
        return "Nothing was run yet."
    scored = {name: last_scores(results) for name, results in runs.items()}
    shown = [key for key in SCORES if any(key in scores for _, scores in scored.values())]
    titles = ["recipe", "parameters", "updates", "minutes", "on", "split", *(SCORES[key][0] for key in shown)]
    rows = [titles, ["---"] * len(titles)]
    for name, results in runs.items():
        split, scores = scored[name]
        cells = [f"[{name}]({name}.yaml)", f"{results['parameters']:,}", f"{results['updates']:,}"]
        cells += [f"{results['minutes']:.1f}", results.get("hardware", ""), split]
        cells += [SCORES[key][1].format(scores[key]) if key in scores else "" for key in shown]
        rows.append(cells)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def last_scores(results: dict) -> tuple[str, dict[str, float]]:
    """The split that was scored at the end, test or else validation, and its scores by bare name."""
    for split in ("test", "validation"):
        scores = {key: results[f"{split}_{key}"] for key in SCORES if f"{split}_{key}" in results}
        if scores:
            return split, scores
    return "", {}


def with_table(readme: str, measured: str) -> str:
    before, _, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"the README has no place for the table, {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{measured}\n{END}{after}"


def take_over(run: Path):
    """Copies a run's results.json to the recipe whose output_dir has the run's name."""
    recipes = [
        path for path in RECIPES.glob("*/*.yaml") if f"output_dir: outputs/{run.name}\n" in path.read_text()
    ]
    if len(recipes) != 1:
        raise ValueError(f"{run}: {len(recipes)} recipes have output_dir: outputs/{run.name}")
    if not (run / "results.json").is_file():
        raise ValueError(f"{run} holds no results.json: the run is not finished")
    target = recipes[0].parent / "results" / f"{recipes[0].stem}.json"
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(run / "results.json", target)


def main():
    for run in map(Path, sys.argv[1:]):
        take_over(run)
    for readme in sorted(RECIPES.glob("*/README.md")):
        text = readme.read_text(encoding="utf-8")
        readme.write_text(with_table(text, table(readme.parent)), encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
