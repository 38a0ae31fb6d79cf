"""The search of this package for other models of transformers: `generate(custom_generate=folder)`.

`write_custom_generate` copies this file, as `custom_generate/generate.py`, and those that it imports.
"""

from typing import Any

import torch
from transformers import GenerationMixin
from transformers.generation import LogitsProcessorList, StoppingCriteriaList

from .config_checks import check_generation_settings
from .plain_steps import PlainSteps
from .search_loop import run_search
from .searches import Settings, needs_all_rows, take_groups, with_own_processors
from .terms import Terms, find_terms, source_words

LIMITS = ("max_length", "max_new_tokens")


def generate(
    model: Any,
    *,
    length_penalty_type: str | None = "gnmt",
    max_extra_tokens: int | None = 50,
    terms: Any = None,
    tokenizer: Any = None,
    **arguments: Any,
) -> Any:
    """Beam search of Vaswani et al. 2017, section 6.1, for any encoder-decoder.

    Args:
        length_penalty_type: "gnmt" divides log P by ((5 + |Y|) / 6)^α, where `length_penalty` is α (0.6 by
            default); None is the search of transformers.
        max_extra_tokens: an output has at most this many tokens more than its input; None for no such limit.
        terms: translations that outputs must have, `{"bank": "Ufer"}`, or a dict for each text. They need the
            `tokenizer`. Or what `find_terms` returns.
        num_beam_groups, diversity_penalty: diverse beam search, as in transformers 4.
        arguments: all others of `generate`, such as `num_beams` (4 by default) and `num_return_sequences`.
            With `return_dict_in_generate=True` the output has `sequences_scores`.
    """
    for name in ("assistant_model", "streamer"):
        if arguments.get(name) is not None:
            raise ValueError(f"this search takes no {name}")
    if length_penalty_type not in (None, "gnmt"):
        raise ValueError(f"length_penalty_type={length_penalty_type!r} is unknown: use 'gnmt', or None")
    own, given = model.generation_config, arguments.get("generation_config")
    if given is None and (own.num_beams or 1) == 1:
        arguments.setdefault("num_beams", 4)
    if given is None and length_penalty_type == "gnmt":
        arguments.setdefault("length_penalty", 0.6)
    source = arguments.get("input_ids", arguments.get("inputs"))
    if max_extra_tokens is not None and source is not None:
        limits = [arguments.get(name) for name in LIMITS]
        limits += [getattr(settings, name, None) for settings in (given, own) for name in LIMITS]
        if all(limit is None for limit in limits):
            arguments["max_new_tokens"] = source.shape[1] + max_extra_tokens
    if terms is not None and not hasattr(terms, "phrases"):  # of a `Terms`, which may be of another copy
        if tokenizer is None or source is None:
            raise ValueError("terms needs input_ids and the tokenizer: pass tokenizer=...")
        with source_words(tokenizer) as options:
            texts = tokenizer.batch_decode(source, skip_special_tokens=True, **options)
        terms = find_terms(tokenizer, texts, terms)
    if tokenizer is not None:
        arguments["tokenizer"] = tokenizer
    return GenerationMixin.generate(
        model,
        custom_generate=search,
        length_penalty_type=length_penalty_type,
        max_extra_tokens=max_extra_tokens,
        terms=terms,
        **arguments,
    )


def search(
    model: Any,
    input_ids: torch.Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: Settings,
    synced_gpus: bool = False,
    length_penalty_type: str | None = None,
    max_extra_tokens: int | None = None,
    terms: Terms | None = None,
    num_beam_groups: int | None = None,
    diversity_penalty: float | None = None,
    **model_kwargs: Any,
) -> Any:
    """A decoding method as `GenerationMixin` calls it; see `generate`."""
    settings = generation_config
    settings.length_penalty_type, settings.max_extra_tokens = length_penalty_type, max_extra_tokens
    settings.terms = terms if terms is not None and any(terms.phrases) else None
    settings.coverage_penalty = None
    for name, value in (("num_beam_groups", num_beam_groups), ("diversity_penalty", diversity_penalty)):
        if value is not None or not hasattr(settings, name):
            setattr(settings, name, value)
    check_generation_settings(vars(settings))
    if settings.num_beams < 2 or settings.do_sample:
        raise ValueError("this is a beam search: set num_beams to 2 or more, and do_sample=False")
    settings.length_penalty = float(settings.length_penalty)
    take_groups(settings)
    processors = with_own_processors(logits_processor)

    def begin(prompts: torch.Tensor, model_kwargs: dict[str, Any], width: int) -> tuple[Any, torch.Tensor]:
        steps = PlainSteps(model, model_kwargs, width)
        return steps, steps.start(prompts, settings)

    return run_search(
        model,
        begin,
        input_ids,
        processors,
        stopping_criteria,
        settings,
        model_kwargs,
        keep_rows=needs_all_rows(settings, processors, synced_gpus, model_kwargs),
        synced_gpus=synced_gpus,
    )
