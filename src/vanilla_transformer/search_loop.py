"""The loop of a beam search: it asks a model for log-probabilities and a search for the next rows."""

from collections.abc import Callable
from typing import Any

import torch
from transformers.generation import (
    EosTokenCriteria,
    GenerateBeamDecoderOnlyOutput,
    GenerateBeamEncoderDecoderOutput,
    LogitsProcessorList,
    MaxLengthCriteria,
    StoppingCriteriaList,
)

from .plain_steps import select_rows, step_outputs
from .searches import Settings, start_search

# A function of prompts, the model's arguments and the rows of each sentence. It returns the steps, such as
# `PlainSteps`, and the logits of the first one if it knows them.
Begin = Callable[[torch.Tensor, dict[str, Any], int], tuple[Any, torch.Tensor | None]]


def other_criteria(criteria: StoppingCriteriaList) -> StoppingCriteriaList:
    """The criteria that the search does not know itself."""
    return StoppingCriteriaList(
        each for each in criteria if not isinstance(each, EosTokenCriteria | MaxLengthCriteria)
    )


def run_search(
    model: Any,
    begin: Begin,
    prompts: torch.Tensor,
    processors: LogitsProcessorList,
    criteria: StoppingCriteriaList,
    settings: Settings,
    model_kwargs: dict[str, Any],
    *,
    keep_rows: bool,
    check_every: int = 1,
    synced_gpus: bool = False,
) -> Any:
    """Takes and returns what the beam search of transformers does; `sequences_scores` are s(Y, X).

    Args:
        prompts: `(sentences * num_beams, length)`.
        keep_rows: every step has `num_beams` rows for each sentence; see `needs_all_rows`.
        check_every: steps between two looks at whether all sentences are done.
    """
    encoder_decoder = model.config.is_encoder_decoder
    if not keep_rows:  # `generate` has repeated each sentence num_beams times
        first_rows = torch.arange(0, len(prompts), settings.num_beams, device=prompts.device)
        prompts, model_kwargs = prompts[first_rows], select_rows(model_kwargs, first_rows)
    if settings.coverage_penalty:
        model_kwargs["output_attentions"] = True
    longest = (criteria.max_length or settings.max_length) - prompts.shape[1]
    search = start_search(settings, prompts, longest, keep_rows, model_kwargs, check_every)

    wanted = step_outputs(settings, encoder_decoder)
    collected: dict[str, tuple] = dict.fromkeys(wanted, ())
    others = other_criteria(criteria)

    def stopped(tokens: torch.Tensor) -> torch.Tensor:
        return others(tokens, collected.get("scores"))

    steps, logits = begin(prompts, model_kwargs, settings.num_beams if keep_rows else 1)
    rows = None
    while model._has_unfinished_sequences(search.done, synced_gpus, device=prompts.device):
        live, width = search.tokens.flatten(0, 1), search.tokens.shape[1]  # live: (rows, length)
        if logits is None:
            logits = steps.step(live, rows, width)
        if search.done:
            logits = None
            continue  # other processes still generate, and need the forward passes of this one
        log_probs = processors(live, logits.log_softmax(-1))
        available = {"logits": logits, "scores": log_probs}
        for name in wanted:  # of `PlainSteps`, which have outputs
            value = available[name] if name in available else steps.outputs[name]
            collected[name] = (*collected[name], value)
        attention = steps.source_attention if settings.coverage_penalty else None
        rows = search.step(log_probs, attention, stopped if others else None)
        logits = None
    steps.finish()

    origins = search.finished_origins[:, : search.returned].flatten(0, 1)
    origins = origins[:, : int((origins >= 0).sum(-1).max())]
    sequences = search.finished[:, : search.returned].flatten(0, 1)
    sequences = sequences[:, : prompts.shape[1] + origins.shape[1]]
    if not settings.return_dict_in_generate:
        return sequences
    result: dict[str, Any] = {
        "sequences": sequences,
        "sequences_scores": search.ranks[:, : search.returned].flatten(),
        "beam_indices": origins,
        "past_key_values": steps.model_kwargs.get("past_key_values"),  # only `PlainSteps` come here
        **collected,
    }
    if not encoder_decoder:
        return GenerateBeamDecoderOnlyOutput(**result)
    encoded = steps.model_kwargs["encoder_outputs"]
    if settings.output_attentions:
        result["encoder_attentions"] = encoded.get("attentions")
    if settings.output_hidden_states:
        result["encoder_hidden_states"] = encoded.get("hidden_states")
    return GenerateBeamEncoderDecoderOutput(**result)
