"""Which search a call of `generate` runs, and the limits of its outputs."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers import LogitsProcessor
from transformers.generation import (
    LogitsProcessorList,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
)

from .beam_search import IMPOSSIBLE, BeamSearch, TransformersBeamSearch, allow_only
from .config_checks import is_whole
from .diverse_beam_search import DiverseBeamSearch
from .terms import ForbiddenTerms, ForcedTerms

# A GenerationConfig with length_penalty_type, coverage_penalty, max_extra_tokens, terms and beam_groups too.
Settings = Any


def uses_own_search(settings: Settings) -> bool:
    return settings.length_penalty_type == "gnmt" and settings.num_beams > 1


def take_groups(settings: Settings) -> None:
    """Sets `beam_groups` from `num_beam_groups`, by which transformers 5 would search for code on the Hub.

    Raises:
        ValueError: the settings of diverse beam search contradict each other.
    """
    groups, penalty, beams = settings.num_beam_groups, settings.diversity_penalty or 0, settings.num_beams
    groups = 1 if groups is None else groups
    if not is_whole(groups) or groups < 1:
        raise ValueError(f"num_beam_groups={groups!r} must be a whole number, at least 1")
    if not isinstance(penalty, int | float) or not 0 <= penalty < math.inf:
        raise ValueError(f"diversity_penalty={penalty!r} must be a number that is not negative")
    if groups == 1 and penalty:
        raise ValueError(f"diversity_penalty={penalty} needs num_beam_groups > 1")
    if groups > 1 and not penalty:
        raise ValueError(
            f"num_beam_groups={groups} needs a diversity_penalty, such as 0.5; else all groups are equal"
        )
    if groups > 1 and settings.do_sample:
        raise ValueError(f"num_beam_groups={groups} cannot sample: set do_sample=False")
    if beams % groups:
        raise ValueError(f"num_beams={beams} must be a multiple of num_beam_groups={groups}")
    settings.beam_groups, settings.num_beam_groups = groups, None
    settings.diversity_penalty = float(penalty)


def needs_all_rows(
    settings: Settings, processors: LogitsProcessorList, synced_gpus: bool, model_kwargs: dict[str, Any]
) -> bool:
    """Whether every step needs `num_beams` rows for each sentence.

    The caller needs them (outputs of each step, a cache of theirs), and so do processors that look at row
    numbers, a cache of fixed size, and processes that run in step. All others run faster on a batch that
    starts with one row for each sentence and drops sentences that are done.
    """
    cache = model_kwargs.get("past_key_values")
    return (
        settings.return_dict_in_generate
        or not all(isinstance(processor, EndNotBefore | ForbiddenTerms) for processor in processors)
        or synced_gpus
        or (cache is not None and (cache.is_compileable or getattr(cache, "_is_user_defined", False)))
    )


def start_search(
    settings: Settings,
    prompts: torch.Tensor,
    longest: int,
    keep_rows: bool,
    model_kwargs: dict[str, Any],
    check_every: int = 1,
) -> BeamSearch | DiverseBeamSearch:
    """The search before its first step, for outputs of at most `longest` tokens after the prompt."""
    limits = prompts.new_full(prompts.shape[:1], longest)
    if settings.max_extra_tokens is not None and uses_own_search(settings):
        limits = limits.minimum(output_limits(settings.max_extra_tokens, prompts, model_kwargs))
    coverage = None
    if settings.coverage_penalty:
        memory, mask = model_kwargs["encoder_outputs"][0], model_kwargs.get("attention_mask")
        coverage = memory.new_zeros(memory.shape[:2]).float() if mask is None else 1 - mask.float()
    pad, end = settings._pad_token_tensor, settings._eos_token_tensor
    limits = limits[:: settings.num_beams if keep_rows else 1]
    kind: Callable[..., BeamSearch] = BeamSearch
    if not uses_own_search(settings):
        kind = partial(TransformersBeamSearch, strict=settings.early_stopping == "never")
        pad = end[0] if end is not None and not pad else pad  # what transformers fills finished rows with
    groups = settings.beam_groups

    def start(prompts: torch.Tensor) -> BeamSearch:
        terms = settings.terms
        if terms is not None:
            terms = ForcedTerms(terms, prompts.unflatten(0, (len(limits), -1)), limits, end)
        of_group = coverage
        if coverage is not None:
            of_group = coverage.unflatten(0, (len(limits), -1))[:, : len(prompts) // len(limits)].flatten(
                0, 1
            )
        return kind(
            prompts,
            limits,
            beams=settings.num_beams // groups,
            returned=settings.num_return_sequences if groups == 1 else settings.num_beams // groups,
            alpha=settings.length_penalty,
            beta=settings.coverage_penalty or 0.0,
            end=end,
            pad=None if pad is None else int(pad),
            coverage=of_group,
            stop_early=settings.early_stopping is True,
            drop_done=not keep_rows and groups == 1,
            check_every=check_every,
            terms=terms,
        )

    if groups == 1:
        return start(prompts)
    return DiverseBeamSearch(
        start,
        prompts,
        len(limits),
        groups=groups,
        penalty=settings.diversity_penalty,
        returned=settings.num_return_sequences,
        drop_done=not keep_rows,
    )


def output_limits(extra: int, prompts: torch.Tensor, model_kwargs: dict[str, Any]) -> torch.Tensor:
    """The input's real tokens + `extra`, at least 1: `(rows,)`, or `(1,)` if all rows are equal."""
    if (mask := model_kwargs.get("attention_mask")) is not None:
        lengths = mask.sum(-1)
    else:
        source = model_kwargs.get("inputs_embeds", prompts)
        if "encoder_outputs" in model_kwargs:
            source = model_kwargs["encoder_outputs"][0]
        lengths = torch.tensor([source.shape[1]], device=prompts.device)
    return (lengths + extra).clamp(min=1)


class EndNotBefore(LogitsProcessor):
    """Forbids the end tokens in outputs shorter than this, prompt included; it changes the scores in place.

    transformers' own processors for this copy all scores.
    """

    def __init__(self, length: int, end: torch.Tensor):
        self.length, self.end = length, end

    def of_rows(self, rows: torch.Tensor) -> "EndNotBefore":
        return self

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if input_ids.shape[1] < self.length:
            scores[:, self.end] = IMPOSSIBLE
        return scores


def with_own_processors(processors: LogitsProcessorList) -> LogitsProcessorList:
    """The processors, of which those that forbid the end are `EndNotBefore`."""
    own: list[LogitsProcessor] = []
    for processor in processors:
        if type(processor) is MinLengthLogitsProcessor:
            processor = EndNotBefore(processor.min_length, processor.eos_token_id)
        elif type(processor) is MinNewTokensLengthLogitsProcessor:
            length = processor.prompt_length_to_skip + processor.min_new_tokens
            processor = EndNotBefore(length, processor.eos_token_id)
        own.append(processor)
    return LogitsProcessorList(own)


def see_rows(processors: LogitsProcessorList) -> bool:
    """Whether a processor may look at row numbers, and cannot change with the rows (`of_rows`)."""
    return not all(
        isinstance(processor, EndAtLimit | EndNotBefore | ForbiddenTerms) for processor in processors
    )


class EndAtLimit(LogitsProcessor):
    """Allows only the end token where a row has room for one more token.

    Args:
        lengths: the maximal length of each row, prompt included, `(rows,)`, or `(1,)` for all rows.
        end: ids of the end tokens.
    """

    def __init__(self, lengths: torch.Tensor, end: torch.Tensor):
        self.lengths, self.shortest, self.end = lengths, int(lengths.min()), end

    def of_rows(self, rows: torch.Tensor) -> "EndAtLimit":
        """The limits of these rows only."""
        return EndAtLimit(self.lengths if len(self.lengths) == 1 else self.lengths[rows], self.end)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        length = input_ids.shape[1] + 1
        if length < self.shortest:
            return scores
        # The limit holds even where another processor forbids the end token: it becomes just possible.
        possible = scores[:, self.end].clamp(min=torch.finfo(scores.dtype).min)
        return allow_only(self.end, scores.index_copy(1, self.end, possible), length >= self.lengths)
