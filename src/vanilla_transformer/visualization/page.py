"""A page of HTML that shows all attention of a model for one text: choose layer and head, point at words."""

from __future__ import annotations

import base64
import html
import json
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .weights import MEANING, attention_of_text

TEMPLATE = Path(__file__).with_name("page.html")


def attention_page(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, source: str, target: str | None = None
) -> str:
    """Return one self-contained page of HTML, which needs no network and no other file.

        Path("attention.html").write_text(attention_page(model, tokenizer, "A dog runs."), encoding="utf-8")

    Args:
        target: the text to score; an encoder-decoder generates it by default.

    Raises:
        ValueError: there is a target, but no encoder-decoder to write it.
    """
    kinds = [
        {
            "name": MEANING[kind],
            "rows": found.rows,
            "columns": found.columns,
            "layers": len(found.weights),
            "heads": found.weights.shape[1],
            # one byte for each weight, layer by layer, head by head, row by row
            "weights": base64.b64encode((found.weights * 255).round().byte().numpy().tobytes()).decode(),
        }
        for kind, found in attention_of_text(model, tokenizer, source, target).items()
    ]
    data = json.dumps(kinds, ensure_ascii=False)
    for character in "<>&\u2028\u2029":  # so that no text ends the script
        data = data.replace(character, f"\\u{ord(character):04x}")
    page = TEMPLATE.read_text(encoding="utf-8").replace("DATA", data, 1)  # the title comes before the data
    return page.replace("TITLE", html.escape(source[:80]), 1)
