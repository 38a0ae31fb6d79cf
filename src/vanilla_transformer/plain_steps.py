"""The steps of a search by the model's own forward pass: for what `Decoding` lacks, and its reference."""

from collections.abc import Callable
from typing import Any

import torch

from .layers import own_cache
from .packing import Packing
from .searches import Settings


class PlainSteps:
    """The model's own forward pass as the steps of a search: the reference for `Decoding`."""

    def __init__(self, model: Any, model_kwargs: dict[str, Any], width: int):
        self.model, self.model_kwargs, self.width = model, model_kwargs, width
        self.outputs: Any = None  # of the last step

    def start(self, input_ids: torch.Tensor, settings: Settings) -> torch.Tensor:
        """The logits after the prompts."""
        is_first = not settings.is_assistant
        return self._logits(
            self.model._prefill(input_ids, settings, self.model_kwargs, is_first_iteration=is_first)
        )

    def step(self, live: torch.Tensor, rows: torch.Tensor, width: int) -> torch.Tensor:
        """Continues these rows of the batch before; see `Decoding.step`."""
        cache: Any = own_cache(self.model_kwargs.get("past_key_values"))
        if len(rows) != len(self.outputs.logits) or width != self.width:
            self.model_kwargs = select_rows(self.model_kwargs, rows)
        elif cache is not None:
            # A row is replaced by one of the same sentence, whose cross-attention cache is equal.
            cache.reorder_cache(rows)
        self.width = width
        inputs = self.model.prepare_inputs_for_generation(
            live, next_sequence_length=1 if self.model_kwargs["use_cache"] else None, **self.model_kwargs
        )
        return self._logits(self.model(**inputs, return_dict=True))

    def _logits(self, outputs: Any) -> torch.Tensor:
        self.outputs = outputs
        is_pair = self.model.config.is_encoder_decoder
        self.model_kwargs = self.model._update_model_kwargs_for_generation(
            outputs, self.model_kwargs, is_encoder_decoder=is_pair
        )
        return outputs.logits[:, -1].float()

    @property
    def source_attention(self) -> torch.Tensor:
        return attention_to_source(self.outputs)


def attention_to_source(outputs: Any) -> torch.Tensor:
    """Σ_j p_ij over the target tokens j of a forward pass, `(rows, source)`."""
    weights = outputs.cross_attentions[-1].float()  # (rows, heads, target, source)
    return weights.mean(1).sum(1)


def select_rows(model_kwargs: dict[str, Any], rows: torch.Tensor) -> dict[str, Any]:
    """The model's inputs for these rows of the batch, which may repeat; the cache changes in place."""

    def select(value: Any) -> Any:
        return value.index_select(0, rows) if isinstance(value, torch.Tensor) else value

    if model_kwargs.get("past_key_values") is not None:
        model_kwargs["past_key_values"].reorder_cache(rows)
    selected = {name: select(value) for name, value in model_kwargs.items()}
    if (memory := selected.get("encoder_outputs")) is not None:
        selected["encoder_outputs"] = type(memory)(**{name: select(value) for name, value in memory.items()})
    return selected


def step_outputs(settings: Settings, is_encoder_decoder: bool) -> list[str]:
    """The names of the outputs that the caller wants of every step."""
    prefix = "decoder_" if is_encoder_decoder else ""
    wanted = {
        "scores": settings.output_scores,
        "logits": settings.output_logits,
        f"{prefix}attentions": settings.output_attentions,
        f"{prefix}hidden_states": settings.output_hidden_states,
        "cross_attentions": settings.output_attentions and is_encoder_decoder,
    }
    return [name for name, is_wanted in wanted.items() if is_wanted and settings.return_dict_in_generate]


SERVED = {"attention_mask", "encoder_outputs", "past_key_values", "use_cache", "logits_to_keep"}
SERVED |= {"output_attentions", "position_ids"}


def needs_own_forward(settings: Settings, model_kwargs: dict[str, Any], synced_gpus: bool) -> str | None:
    """What in this call only the model's own forward pass serves."""
    cache = model_kwargs.get("past_key_values")
    others = [name for name, value in model_kwargs.items() if name not in SERVED and value is not None]
    if settings.return_dict_in_generate:
        return "return_dict_in_generate=True"
    if settings.output_attentions or settings.output_hidden_states:
        return "the output of attentions or hidden states"
    if not settings.use_cache:
        return "use_cache=False"
    if settings.cache_implementation not in (None, "dynamic") or getattr(cache, "_is_user_defined", False):
        return "a cache of the caller"
    if synced_gpus:
        return "synced_gpus=True"
    mask = model_kwargs.get("attention_mask")
    if mask is not None and has_empty_row(mask):
        return "a row of the attention mask without a token"
    return f"the argument {others[0]}" if others else None


def has_empty_row(mask: torch.Tensor) -> bool:
    return not bool((mask != 0).any(-1).all())


def without_padding(
    prepare: Callable[..., dict[str, Any]],
    inputs: torch.Tensor,
    model_kwargs: dict[str, Any],
    *args: Any,
    **kwargs: Any,
) -> dict[str, Any]:
    """Runs the encoder by `prepare`, on the real tokens alone if a CPU saves time so."""
    mask = model_kwargs.get("attention_mask")
    if (
        inputs.device.type != "cpu"
        or mask is None
        or mask.dim() != 2
        or mask.float().mean() > 0.9
        or has_empty_row(mask)
    ):
        return prepare(inputs, model_kwargs, *args, **kwargs)
    packed = {**model_kwargs, "packing": Packing(mask, padded_output=True)}
    model_kwargs = prepare(inputs, packed, *args, **kwargs)
    del model_kwargs["packing"]
    return model_kwargs
