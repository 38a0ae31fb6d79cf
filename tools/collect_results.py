"""Make the tables of results in recipes/*/README.md, and the model cards in model_cards/.

    python tools/collect_results.py                 # rewrite both from recipes/*/results/*.json and the YAMLs
    python tools/collect_results.py outputs/sst2    # first copy results.json of a run of sst2.yaml

A run belongs to the recipe with the same output_dir. Every number comes from the run's own results.json.
"""

import argparse
import json
import re
import shutil
from pathlib import Path

import yaml
from huggingface_hub import ModelCard

from vanilla_transformer.model_card import METRIC_NAMES, make_card

RECIPES = Path(__file__).parents[1] / "recipes"
CARDS = RECIPES.parent / "model_cards"
BEGIN, END = "<!-- measured: made by tools/collect_results.py -->", "<!-- end of measured -->"

# The columns of the tables, in this order, and their formats.
SCORES = {
    "bleu": ("BLEU", "{:.1f}"),
    "chrf": ("chrF", "{:.1f}"),
    "rouge1": ("ROUGE-1", "{:.1f}"),
    "rouge2": ("ROUGE-2", "{:.1f}"),
    "rougeL": ("ROUGE-L", "{:.1f}"),
    "accuracy": ("accuracy", "{:.1%}"),
    "f1": ("F1", "{:.3f}"),
    "f1_unseen": ("F1 of unseen entities", "{:.3f}"),
    "f1_macro": ("macro F1", "{:.3f}"),
    "map": ("mAP@[.5:.95]", "{:.3f}"),
    "map_50": ("mAP@.5", "{:.3f}"),
    "bits_per_character": ("bits per character", "{:.3f}"),
    "perplexity": ("perplexity", "{:.1f}"),
}


def table(folder: Path) -> str:
    """Return a Markdown table: one row per recipe that was run, with the scores of its last split."""
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
    """Return the split, test if there is one, else validation, and its scores without the prefix."""
    for split in ("test", "validation"):
        scores = {key: results[f"{split}_{key}"] for key in SCORES if f"{split}_{key}" in results}
        if scores:
            return split, scores
    return "", {}


def with_table(readme: str, measured: str) -> str:
    """Return the README with this table."""
    before, _, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"the README needs these two lines around the table: {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{measured}\n{END}{after}"


def copy_results(run: Path) -> None:
    """Copy results.json of a run to the recipe whose output_dir has the same name."""
    recipes = [
        path for path in RECIPES.glob("*/*.yaml") if f"output_dir: outputs/{run.name}\n" in path.read_text()
    ]
    if len(recipes) != 1:
        raise ValueError(f"{run}: {len(recipes)} recipes have output_dir: outputs/{run.name}")
    if not (run / "results.json").is_file():
        raise ValueError(f"{run / 'results.json'} does not exist: wait until the run is finished")
    target = recipes[0].parent / "results" / f"{recipes[0].stem}.json"
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(run / "results.json", target)


# Settings of the data, of saving and of logging, which the cards skip.
NOT_SHOWN = re.compile(
    "output_dir|dataset|source_lang|target_lang|use_cpu|"
    "(train|validation|test)_file|(eval|save|logging|dataloader|per_device_eval)_.*"
)
TASKS = {"causal": "text-generation", "masked": "fill-mask", "denoising": "text2text-generation"}
LIMITS = "Intended use: research and teaching. It is a baseline, not ready for production."


def cards() -> dict[str, str]:
    """Return the text of each model card by file name."""
    return {
        f"{results.parents[1].name}_{results.stem}.md": str(card(results))
        for results in sorted(RECIPES.glob("*/results/*.json"))
    }


def card(path: Path) -> ModelCard:
    """Return the card of one run, from its results and its recipe."""
    folder, recipe = path.parents[1], path.parents[1] / f"{path.stem}.yaml"
    results, text = json.loads(path.read_text()), recipe.read_text(encoding="utf-8")
    settings = yaml.safe_load(text)
    header = [line.removeprefix("#").strip() for line in text.split("\n\n")[0].splitlines()]
    dataset = settings.get("dataset")
    on_hub = dataset is not None and "/" in dataset
    objective = settings.get("objective", "causal")
    splits = {
        split: {
            metric: value
            for metric in (*METRIC_NAMES, *(f"{name}_signature" for name in ("bleu", "chrf", "rouge")))
            if (value := results.get(f"{split}_{metric}")) is not None
        }
        for split in ("validation", "test")
    }
    return make_card(
        name=path.stem,
        model=settings["output_dir"],
        task=TASKS[objective] if folder.name == "language_modeling" else folder.name.replace("_", "-"),
        data=f"{describe_data(settings)}. [The recipe](../recipes/{folder.name}/{recipe.name}) says:\n\n"
        + "\n".join(f"> {line}".rstrip() for line in header[3:]),
        cost=f"Training and scoring took {results['minutes']:.1f} minutes and {results['updates']:,} updates "
        f"on {results['hardware']}.",
        command=header[0].removeprefix("Not run yet: "),
        results={split: scores for split, scores in splits.items() if scores},
        settings={
            key: value
            for key, value in (settings["model"] | settings).items()
            if key != "model" and not NOT_SHOWN.fullmatch(key)
        },
        sizes=f"It has {results['parameters']:,} parameters.",
        languages=[settings[key] for key in ("source_lang", "target_lang") if key in settings],
        datasets=[dataset] if on_hub else [],
        limits=[LIMITS],
        published=False,
    )


def describe_data(settings: dict) -> str:
    """Return the name of a recipe's data set, or its training files."""
    dataset = settings.get("dataset")
    if dataset is None:
        return ", ".join(f"`{file}`" for file in settings["train_file"])
    return f"`{dataset}` from the Hub" if "/" in dataset else f"`{dataset}`, which the package contains"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=Path, help="output folders of finished runs")
    try:
        for run in parser.parse_args().runs:
            copy_results(run)
        for readme in sorted(RECIPES.glob("*/README.md")):
            if not any(readme.parent.glob("*.yaml")):
                continue  # recipes/paper, whose report grid.py makes
            text = readme.read_text(encoding="utf-8")
            readme.write_text(with_table(text, table(readme.parent)), encoding="utf-8")
    except ValueError as error:
        parser.error(str(error))
    for name, text in cards().items():
        (CARDS / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
