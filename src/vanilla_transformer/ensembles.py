"""Several models that generate together, by the mean of their probabilities at every step."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutput

from .searches import Settings
from .shortcuts import without_padding


class EnsembleSteps:
    """The steps of several models as one; see `Decoding.step`. The logits are log-probabilities."""

    def __init__(self, parts: Sequence[Any]):
        self.parts = parts

    @classmethod
    def begin(
        cls,
        begins: Sequence[Callable[[], tuple[Any, torch.Tensor | None]]],
        prompts: torch.Tensor,
        width: int,
    ) -> tuple["EnsembleSteps", torch.Tensor | None]:
        """The steps after these prompts, and the logits of the first one if a model has computed them."""
        parts, logits = zip(*(begin() for begin in begins))
        if all(each is None for each in logits):
            return cls(parts), None
        known = [
            part.step(prompts, None, width) if each is None else each for part, each in zip(parts, logits)
        ]
        return cls(parts), mean_of_probabilities([each.log_softmax(-1) for each in known])

    def step(self, tokens: torch.Tensor, rows: torch.Tensor | None, width: int) -> torch.Tensor:
        return mean_of_probabilities([part.step(tokens, rows, width).log_softmax(-1) for part in self.parts])

    def finish(self) -> None:
        for part in self.parts:
            part.finish()

    @property
    def source_attention(self) -> torch.Tensor:
        """The mean over the models."""
        return torch.stack([part.source_attention for part in self.parts]).mean(0)


def mean_of_probabilities(log_probs: Sequence[torch.Tensor]) -> torch.Tensor:
    """log of the mean of exp, of tensors of one shape."""
    return torch.stack(list(log_probs)).logsumexp(0) - math.log(len(log_probs))


def encoded(model: Any, source: torch.Tensor, mask: torch.Tensor | None, rows: int) -> BaseModelOutput:
    """The model's memory of source ids `(sentences, length)`, of which each has some of these rows.

    Args:
        mask: `(rows, length)`.
    """
    width = rows // len(source)

    def run(ids: torch.Tensor, arguments: dict[str, Any]) -> dict[str, Any]:
        return {**arguments, "memory": model.get_encoder()(input_ids=ids, **arguments).last_hidden_state}

    memory = without_padding(run, source, {"attention_mask": None if mask is None else mask[::width]})[
        "memory"
    ]
    return BaseModelOutput(last_hidden_state=memory.repeat_interleave(width, 0))


def check_ensemble(model: Any, settings: Settings, inputs: dict[str, Any]) -> None:
    """Raises ValueError for models that cannot generate together, and for calls that serve one model only."""
    members = settings.ensemble
    if not isinstance(members, Sequence) or not all(
        hasattr(each, "prepare_for_decoding") for each in members
    ):
        raise ValueError(
            "ensemble must be a list of loaded models of this package; for folders, use "
            "pipeline('translation', model=..., ensemble=[folders])"
        )
    for index, member in enumerate((model, *members)):
        name = f"ensemble: the model {index} ({member.name_or_path or type(member).__name__})"
        if not member.config.is_encoder_decoder:
            raise ValueError(f"{name} is no encoder-decoder model")
        for field in ("vocab_size", "decoder_start_token_id", "pad_token_id", "eos_token_id"):
            own, first = getattr(member.config, field), getattr(model.config, field)
            if own != first:
                raise ValueError(f"{name} has another vocabulary: its {field} is {own}, not {first}")
        if member.device != model.device:
            raise ValueError(f"{name} is on {member.device}, not on {model.device}: move it there")
    if settings.return_dict_in_generate:
        raise ValueError(
            "an ensemble returns tokens only: remove return_dict_in_generate; sequence_scores(model, ..., "
            "ensemble=...) returns scores"
        )
    for name in ("encoder_outputs", "inputs_embeds"):
        if inputs.get(name) is not None:
            raise ValueError(f"an ensemble needs input_ids, not {name}: each model has its own encoder")
