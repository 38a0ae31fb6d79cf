"""What an importer returns."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedModel


@dataclass
class Parts:
    """A model of this package, and what came with it.

    Args:
        processor: the tokenizer or image processor, if the source has one that can be saved beside the model.
        original: the source's own model, if it can run here: for translation a model of transformers, for
            images a function of pixels that returns logits.
        notes: what the user should know, such as a setting that has no counterpart here.
    """

    model: PreTrainedModel
    processor: Any = None
    original: Callable[..., Any] | None = None
    notes: list[str] = field(default_factory=list)
