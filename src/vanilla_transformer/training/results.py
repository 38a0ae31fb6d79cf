"""What a recipe leaves and prints when it is done."""

import json
from pathlib import Path

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase


def write_translations(
    split: Dataset, predictions: np.ndarray, tokenizer: PreTrainedTokenizerBase, output_dir: str
):
    """translations.jsonl in the order of the data, and five of them, evenly spread, on the screen.

    Args:
        split: what `encode_splits` gave for the held-out data.
        predictions: token ids (rows of split, length), padded with the pad token or -100.
    """
    ids = np.where(predictions < 0, tokenizer.pad_token_id, predictions)
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    rows = sorted(zip(split["row"], split["source"], split["target"], texts))
    with open(Path(output_dir, "translations.jsonl"), "w", encoding="utf-8") as file:
        for _, source, reference, text in rows:
            line = {"source": source, "reference": reference, "translation": text}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    for _, source, reference, text in rows[:: max(1, len(rows) // 5)][:5]:
        print(f"\n  source       {source}\n  reference    {reference}\n  translation  {text}")


def write_results(results: dict[str, float | str], output_dir: str, task: str, key: str):
    """results.json; on the screen the same as a table, and how to use the model.

    Args:
        task: the name of the pipeline.
        key: where the pipeline's output has its text.
    """
    Path(output_dir, "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print()
    for name, value in results.items():
        print(f"{name:32} {value:,.2f}" if isinstance(value, float) else f"{name:32} {value}")
    print(
        f"\nThe model is in {output_dir}. To use it:\n\n"
        "    import vanilla_transformer\n"
        "    from transformers import pipeline\n\n"
        f'    pipe = pipeline("{task}", model="{output_dir}")\n'
        f'    print(pipe("...")[0]["{key}"])\n'
    )
