"""The README.md of a trained model: metadata that the Hub reads, and text that says what the model is."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from safetensors import safe_open


class Use(NamedTuple):
    """How a task's pipeline is called, for examples."""

    example: str  # what it is given
    key: str  # where its first answer has what one wants to know


USE = {
    "translation": Use("A dog runs over the field.", "translation_text"),
    "summarization": Use("A long text. It says many things.", "summary_text"),
    "text2text-generation": Use("A dog runs over the field.", "generated_text"),
    "text-generation": Use("In the beginning", "generated_text"),
    "fill-mask": Use("A dog <mask> over the field.", "token_str"),
    "text-classification": Use("What a wonderful film.", "label"),
    "token-classification": Use("Ada lives in London.", "entity"),
    "image-classification": Use("picture.png", "label"),
    "object-detection": Use("picture.png", "label"),
}

METRIC_NAMES = {
    "bleu": "BLEU",
    "sacrebleu": "BLEU",
    "chrf": "chrF",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "rougeLsum": "ROUGE-Lsum",
    "loss": "cross-entropy",
}
# Of what the Trainer and the recipes report.
NOT_QUALITY = ("runtime", "_per_second", "_preparation_time", "_signature", "epoch")
NOT_QUALITY += ("tokens", "words", "characters")  # how much text a score is of

TEMPLATE = """\
---
{{ card_data }}
---

# {{ name }}

A Transformer as in "Attention Is All You Need" (Vaswani et al. 2017), trained from scratch with
vanilla-transformer for {{ task }}{% if languages %} ({{ languages }}){% endif %}.
{%- if sizes %} {{ sizes }}{% endif %}

## How to use it

The folder brings its code along, so that transformers is all you need:

```python
from transformers import pipeline

pipe = pipeline({{ arguments }}, trust_remote_code=True)
print(pipe({{ example }}))
```

With `pip install vanilla-transformer` nothing has to be trusted:

```python
import vanilla_transformer
from transformers import pipeline

pipe = pipeline({{ arguments }})
print(pipe({{ example }}))
```

## Training

Data: {{ data }}
{% if command %}
```
{{ command }}
```
{% endif %}
{%- if settings %}
| setting | value |
|---|---|
{% for key, value in settings.items() -%}
| {{ key }} | {{ value }} |
{% endfor -%}
{% endif %}
## Results
{% if results %}
| data | metric | value | signature |
|---|---|---|---|
{% for row in results -%}
| {{ row | join(" | ") }} |
{% endfor -%}
{% else %}
The model was not scored.
{% endif %}
## Limits

The model knows what its data contain.
{%- if of_images %} On pictures of another kind it does worse, and what it says
can be wrong or unfair in the ways its data are.
{%- else %} Text of another kind
{%- if longest %}, or of more than {{ longest }} tokens,{% endif %} comes out worse,
and what it says can be wrong, offensive or unfair in the ways its data are.
{%- endif %}
{%- for limit in limits %}
{{ limit }}
{%- endfor %}
"""


def write_model_card(
    folder: str | Path,
    *,
    task: str,
    data: str,
    results: Mapping[str, Mapping[str, float | str]],
    settings: Mapping[str, object],
    languages: Iterable[str] = (),
    command: str | None = None,
    model: str | None = None,
    example: str | None = None,
    options: Mapping[str, object] | None = None,
    license: str | None = None,
    datasets: Iterable[str] = (),
    tags: Iterable[str] = (),
    limits: Iterable[str] = (),
) -> Path:
    """Writes README.md into the folder of a saved model, and returns its path.

    Args:
        folder: what `save_pretrained` wrote; sizes are read from its config.json and weights.
        task: a task of `pipeline`, such as "translation" or "fill-mask".
        data: what the model was trained on, in words, with its size and licence.
        results: the scores of each split, such as `{"test": {"bleu": 30.1, "bleu_signature": "nrefs:1|…"}}`.
            The metrics of a Trainer, less their prefix, will do: its times and speeds are left out.
        settings: of the training, in the order to be shown.
        languages: codes such as "en", the source's first.
        command: what trained the model.
        model: the name of the model on the Hub, for the examples of use; the folder by default.
        example, options: for these examples, a text or a picture's file name, the task's usual one by
            default, and arguments such as `{"tgt_lang": "es"}`.
        license: of the weights, a code such as "cc-by-4.0".
        datasets: names of the data on the Hub; the scores are of the first.
        tags, limits: more of either; a limit is a sentence.

    Raises:
        FileNotFoundError: where there is no model in the folder.
    """
    folder, languages, datasets = Path(folder), list(languages), list(datasets)
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise FileNotFoundError(f"{config_file}: a model card describes a saved model, and there is none")
    config = json.loads(config_file.read_text(encoding="utf-8"))
    model = model or str(folder)
    name = Path(model).name
    arguments = [repr_of(task), f"model={repr_of(model)}"]
    arguments += [f"{key}={repr_of(value)}" for key, value in (options or {}).items()]
    scores = [
        EvalResult(
            task_type=task,
            dataset_type=datasets[0] if datasets else "other",
            dataset_name=datasets[0] if datasets else "held-out data",
            dataset_split=split,
            metric_type=metric,
            metric_name=METRIC_NAMES.get(metric, metric.replace("_", " ")),
            metric_value=value,
            metric_args={"signature": signature} if (signature := signature_of(metric, metrics)) else None,
        )
        for split, metrics in results.items()
        for metric, value in metrics.items()
        if not metric.endswith(NOT_QUALITY)
    ]
    card_data = ModelCardData(
        model_name=name,
        language=languages or None,
        license=license,
        library_name="transformers",
        pipeline_tag=task,
        tags=["vanilla-transformer", *tags],
        datasets=datasets or None,
        metrics=list(dict.fromkeys(score.metric_type for score in scores)) or None,
        eval_results=scores or None,
    )
    card = ModelCard.from_template(
        card_data,
        template_str=TEMPLATE,
        name=name,
        task=task,
        languages=" to ".join(languages) if task == "translation" else ", ".join(languages),
        sizes=describe_sizes(config, folder),
        arguments=", ".join(arguments),
        example=repr_of(example or USE[task].example),
        data=data,
        command=command,
        settings=settings,
        results=[table_row(score) for score in scores],
        of_images=task in ("image-classification", "object-detection"),
        longest=config.get("max_position_embeddings"),
        limits=list(limits),
    )
    card.save(folder / "README.md")
    return folder / "README.md"


def signature_of(metric: str, metrics: Mapping[str, float | str]) -> str | None:
    """That of its own name, or of the family's: `rouge_signature` is rouge1's and rougeL's."""
    signed = {name.removesuffix("_signature"): name for name in metrics if name.endswith("_signature")}
    return next((metrics[name] for family, name in signed.items() if metric.startswith(family)), None)


def table_row(score: EvalResult) -> list[str]:
    cells = [f"{score.dataset_name}, {score.dataset_split}", score.metric_name, str(score.metric_value)]
    cells.append(score.metric_args["signature"] if score.metric_args else "")
    return [cell.replace("|", "\\|") for cell in cells]


def describe_sizes(config: dict, folder: Path) -> str:
    """One sentence with the model's sizes."""
    stacks = [
        f"{config[f'{stack}_layers']} {stack} layers"
        for stack in ("encoder", "decoder")
        if config.get(f"{stack}_layers")
    ]
    words = {
        "hidden_size": "width {}",
        "intermediate_size": "feed-forward width {}",
        "num_attention_heads": "{} heads",
    }
    parts = [
        " and ".join(stacks),
        *(text.format(config[key]) for key, text in words.items() if key in config),
    ]
    if weights := count_weights(folder):
        parts.append(f"{weights:,} parameters")
    sentence = ", ".join(part for part in parts if part)
    return f"It has {sentence}." if sentence else ""


def count_weights(folder: Path) -> int:
    """Numbers in the folder's safetensors files; tied weights are there once."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as weights:
            total += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    return total


def repr_of(value: object) -> str:
    """A value as Python writes it, with double quotes, as this code does."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


__all__ = ["USE", "write_model_card"]
