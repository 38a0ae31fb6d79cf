"""What an importer returns."""

from collections.abc import Callable, Iterable, Mapping
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


INNER_DROPOUT = ("attention_dropout", "activation_dropout", "relu_dropout")


def dropout_notes(settings: Mapping[str, Any], names: Iterable[str] = INNER_DROPOUT) -> list[str]:
    """A note for each of these settings that drops something inside attention or feed-forward networks."""
    return [
        f"{name}={settings[name]} does not act inside attention and feed-forward networks here: training "
        "drops sublayer outputs and embeddings only"
        for name in names
        if settings.get(name)
    ]
