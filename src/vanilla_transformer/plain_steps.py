"""The steps of a search by the model's own forward pass: for what `Decoding` lacks, and its reference."""

from typing import Any

import torch

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

    def step(self, live: torch.Tensor, rows: torch.Tensor | None, width: int) -> torch.Tensor:
        """Continues these rows of the batch before; see `Decoding.step`."""
        cache: Any = self.model_kwargs.get("past_key_values")
        cache = getattr(cache, "self_attention_cache", cache)
        if rows is None:
            pass
        elif len(rows) != len(self.outputs.logits) or width != self.width:
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

    def finish(self) -> None:
        """Does nothing; see `StaticDecoding.finish`."""

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
