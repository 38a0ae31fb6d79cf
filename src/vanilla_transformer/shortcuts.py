"""Which calls of `generate` the fast steps serve, and the encoder's run without padding."""

from collections.abc import Callable
from typing import Any

import torch

from .packing import Packing
from .searches import Settings

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
