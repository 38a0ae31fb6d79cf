"""Several models that generate together, by the mean of their probabilities at every step."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from .scores import mean_of_probabilities
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


def encoded(model: Any, source: torch.Tensor, mask: torch.Tensor | None, rows: int) -> BaseModelOutput:
    """The model's memory of source ids `(sentences, length)`, of which each has some of these rows.

    Args:
        mask: `(rows, length)`.
    """
    width = rows // len(source)

    def run(ids: torch.Tensor, arguments: dict[str, Any]) -> dict[str, Any]:
        return {**arguments, "memory": model.get_encoder()(input_ids=ids, **arguments).last_hidden_state}

    mask = None if mask is None else mask[::width]
    memory = without_padding(run, source, {"attention_mask": mask})["memory"]
    return BaseModelOutput(last_hidden_state=memory.repeat_interleave(width, 0))


def check_ensemble(model: Any, settings: Settings, inputs: dict[str, Any]) -> None:
    """Raises ValueError for models that cannot generate together, and for calls that serve one model only."""
    members = settings.ensemble
    if members is None:
        return
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
        for field in (
            "vocab_size",
            "output_vocab_size",
            "decoder_start_token_id",
            "pad_token_id",
            "eos_token_id",
        ):
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


def load_ensemble(model: Any, tokenizer: Any, folders: Sequence[Any]) -> list[Any]:
    """The models in these folders, on the device of `model`; a loaded model stays as it is.

    Raises:
        ValueError: a folder holds another kind of model or another vocabulary.
    """
    if isinstance(folders, str) or not isinstance(folders, Sequence):
        raise ValueError(f"ensemble={folders!r} must be a list of folders, such as ['outputs/second']")
    if not hasattr(model, "prepare_for_decoding"):
        raise ValueError(f"{type(model).__name__} cannot lead an ensemble; only models of this package can")
    members = []
    for folder in folders:
        if not isinstance(folder, PreTrainedModel):
            check_folder(model, tokenizer, str(folder))
            folder = type(model).from_pretrained(str(folder), dtype=model.dtype).to(model.device)
        members.append(folder.eval())
    return members


def check_folder(model: Any, tokenizer: Any, folder: str) -> None:
    """Raises ValueError if the model in a folder cannot generate together with this one."""
    try:
        kind = PreTrainedConfig.get_config_dict(folder)[0].get("model_type")
    except OSError as error:
        raise OSError(f"ensemble: {folder} is neither a folder of a model nor on the Hub: {error}") from None
    if kind != model.config.model_type:
        raise ValueError(f"ensemble: {folder} holds a model of type {kind}, not {model.config.model_type}")
    own, first = type(tokenizer).from_pretrained(folder).get_vocab(), tokenizer.get_vocab()
    if own != first:
        differing = min(own.items() ^ first.items(), key=lambda entry: (entry[1], entry[0]))
        raise ValueError(
            f"ensemble: {folder} has another vocabulary than the first model ({len(own)} and {len(first)} "
            f"tokens); they first differ at {differing[0]!r}, id {differing[1]}"
        )
