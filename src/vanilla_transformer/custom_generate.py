"""Writes the search of this package as a `custom_generate` folder of transformers, for the Hub."""

import ast
import shutil
from os import PathLike
from pathlib import Path

ENTRY = "hub_generate"

README = """---
library_name: transformers
license: apache-2.0
tags:
- custom_generate
---

# The beam search of "Attention Is All You Need"

The search of [vanilla-transformer]({repository})
for every encoder-decoder of transformers 5, such as T5, BART, Marian (OPUS-MT), M2M100 and NLLB. It adds the
length penalty of Wu et al. 2016 and a length limit for each sentence. It brings back forced words and diverse
beam search, which transformers 5 removed.

```python
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("Helsinki-NLP/opus-mt-en-de")
model = AutoModelForSeq2SeqLM.from_pretrained("Helsinki-NLP/opus-mt-en-de")
batch = tokenizer(["A dog sleeps on the bank."], return_tensors="pt")
search = {{"custom_generate": "<this repository>", "trust_remote_code": True}}
output = model.generate(**batch, **search)
output = model.generate(**batch, **search, terms={{"bank": "Ufer"}}, tokenizer=tokenizer)
output = model.generate(
    **batch, **search, num_beams=6, num_beam_groups=3, diversity_penalty=0.5, num_return_sequences=6
)
```

| argument | default | meaning |
|---|---|---|
| `num_beams` | 4, or the model's own | beams, 2 or more |
| `length_penalty_type` | `"gnmt"` | log P is divided by ((5 + tokens) / 6)^α; `None`: transformers' search |
| `length_penalty` | 0.6 | α |
| `max_extra_tokens` | 50 | the most tokens that an output has more than its input; `None`: no limit |
| `terms`, with `tokenizer` | | what an output must contain: `{{"bank": "Ufer"}}`, or a dict for each text |
| `num_beam_groups`, `diversity_penalty` | 1 | diverse beam search, as in transformers 4 |
| `num_return_sequences` | 1 | the n best outputs |
| `return_dict_in_generate=True` | | the output has `sequences_scores` |

All other arguments of `generate` keep their meaning. Sampling, `streamer` and `assistant_model` raise errors.
"""


def write_custom_generate(folder: str | PathLike) -> None:
    """Writes `custom_generate/generate.py`, the files that it needs, and a README.md into a folder.

    `hf upload <name> paper-search` publishes it; then `custom_generate="<name>"` works everywhere.

    Example:
        >>> write_custom_generate("paper-search")
        >>> outputs = model.generate(**source, custom_generate="./paper-search", trust_remote_code=True)
    """
    from .extras import REPOSITORY

    folder, source = Path(folder), Path(__file__).parent
    target = folder / "custom_generate"
    target.mkdir(parents=True, exist_ok=True)
    for name in needed(ENTRY, source):
        shutil.copyfile(source / f"{name}.py", target / f"{'generate' if name == ENTRY else name}.py")
    (folder / "README.md").write_text(README.format(repository=REPOSITORY), encoding="utf-8")


def needed(name: str, source: Path) -> set[str]:
    """This module and all that it imports from its own folder."""
    found, left = set(), {name}
    while left:
        found |= left
        trees = [ast.parse((source / f"{each}.py").read_text(encoding="utf-8")) for each in left]
        left = {
            node.module
            for tree in trees
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.level and node.module
        } - found
    return found


__all__ = ["write_custom_generate"]
