"""What the pipelines need to know about models and batches: lengths, language tokens, scores."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import LogitsProcessorList
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER
from transformers.utils import ModelOutput

from .alignments import alignment_attention, linked_words, pharaoh, split_words, words_of_pieces
from .minimum_bayes_risk import expected_utilities
from .scores import force, layers_for, scores_of
from .terms import ForbiddenTerms, Terms, continuations, find_terms, source_words

OWN_OPTIONS = {
    "return_scores",
    "return_alignments",
    "forbid",
}  # of the pipelines' forward pass, which are no arguments of `generate`
SCORES = ("sequences_scores", "scores", "logits")  # of an output of `generate`


def of_similar_length(lengths: list[int], most: int | None, tokens: int) -> Iterator[list[int]]:
    """Yields batches of indices, longest texts first: a full memory shows early.

    Args:
        lengths: of the texts, in tokens.
        most: texts in a batch; None for as many as have `tokens` tokens with their padding.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])  # stable
    while order:
        count = most or max(1, tokens // max(1, lengths[order[0]]))
        yield order[:count]
        order = order[count:]


def scores_of_outputs(output: ModelOutput) -> dict[str, torch.Tensor]:
    """`SCORES` that `generate` returned: `(outputs,)`, or `(outputs, tokens, vocabulary)`."""
    found = {name: output[name] for name in SCORES if output.get(name) is not None}
    origins = output.get("beam_indices")  # of each token, the row that predicted it, or -1
    for name in found.keys() - {"sequences_scores"}:
        steps = torch.stack(found[name])  # (tokens, rows, vocabulary)
        if origins is None:
            found[name] = steps.transpose(0, 1)
        else:
            step = torch.arange(min(len(steps), origins.shape[1]), device=origins.device)
            found[name] = steps[step, origins[:, : len(step)].clamp(min=0)]
    return found


class TextWithTerms(str):
    """A text that has terms of its own."""

    terms: Mapping[str, str]


def with_terms(texts: list[Any], options: dict[str, Any]) -> list[Any]:
    """The texts with their terms, if the options have a list of them, which leaves the options."""
    terms = options.get("terms")
    if terms is None or isinstance(terms, Mapping):
        return texts
    if len(terms) != len(texts):
        raise ValueError(f"terms has {len(terms)} dicts for {len(texts)} texts; pass one for each text")
    del options["terms"]
    own: list[Any] = []
    for text, of_text in zip(texts, terms):
        own.append(TextWithTerms(text) if isinstance(text, str) else text)
        if isinstance(text, str):  # the others raise an error later
            own[-1].terms = of_text or {}
    return own


def phrases_of(model: Any, tokenizer: Any, text: str, terms: Any) -> dict[str, Any]:
    """The phrases that the output for a text must have, for its batch; nothing if there are no terms."""
    terms = getattr(text, "terms", terms)
    if terms is None:
        return {}
    if not isinstance(terms, Mapping):
        raise ValueError("a list of terms needs a list of texts; for one text, pass a dict of terms")
    if not hasattr(model, "prepare_for_decoding"):
        raise ValueError(f"{type(model).__name__} cannot force terms; only models of this package can")
    return {"phrases": {"of_text": find_terms(tokenizer, [text], terms).phrases[0]}}


def arguments_for_terms(
    tokenizer: Any, inputs: dict[str, Any], forbid: Sequence[str], options: dict[str, Any]
) -> dict[str, Any]:
    """The arguments of `generate` for phrases, which leave the inputs, and for forbidden words."""
    arguments: dict[str, Any] = {}
    if (phrases := inputs.pop("phrases", None)) is not None:
        of_texts = phrases if isinstance(phrases, list) else [phrases]
        arguments["terms"] = Terms([each["of_text"] for each in of_texts], continuations(tokenizer))
    if forbid:
        others, forbidden = options.get("logits_processor") or [], ForbiddenTerms(tokenizer, forbid)
        if "terms" in arguments:
            forbidden.check(tokenizer, arguments["terms"])
        arguments["logits_processor"] = LogitsProcessorList([*others, forbidden])
    return arguments


def forced_outputs(
    model: Any,
    inputs: dict[str, Any],
    ids: torch.Tensor,
    settings: dict[str, Any],
    return_scores: bool,
    return_alignments: bool,
) -> dict[str, torch.Tensor]:
    """Scores and attention of the outputs `(outputs, length)` of a batch; each tensor has a row for each."""
    if not (return_scores or return_alignments):
        return {}
    layers = layers_for(settings) if return_scores else []
    layer, shift = alignment_attention(model)
    aligning = [layer] if return_alignments else []
    forced = force(model, inputs, ids, layers=[*layers, *aligning], ensemble=settings.get("ensemble") or ())
    outputs: dict[str, torch.Tensor] = {}
    if return_scores:
        outputs |= {"score": scores_of(forced, settings, inputs.get("attention_mask"))}
        outputs |= {"token_log_probabilities": forced.log_probs, "lengths": forced.lengths}
    if return_alignments:
        texts = len(inputs["input_ids"])
        weights = forced.attention[layer]
        outputs |= {"attention": weights, "shift": torch.full((len(ids),), shift)}
        outputs |= {"source_ids": inputs["input_ids"].repeat_interleave(len(ids) // texts, 0)}
    return outputs


def forced_records(tokenizer: Any, outputs: dict[str, Any], index: int, prefix: str) -> dict[str, Any]:
    """What a record has of `forced_outputs`, for one output of a text; `prefix` was before the text."""
    record: dict[str, Any] = {}
    blank = bool(outputs["blank"][0])
    if "score" in outputs:
        length = 0 if blank else int(outputs["lengths"][0][index])
        log_probs = outputs["token_log_probabilities"][0][index][:length]
        record["log_probability"] = float(log_probs.sum())
        record["score"] = float(outputs["score"][0][index]) if length else 0.0
        record["token_log_probabilities"] = log_probs.tolist()
    if "attention" in outputs:
        with source_words(tokenizer) as options:
            source = words_of_pieces(tokenizer, outputs["source_ids"][0][index], **options)
        target = words_of_pieces(tokenizer, outputs["output_ids"][0][index])
        attention, shift = outputs["attention"][0][index], bool(outputs["shift"][0][index])
        links = [] if blank else linked_words(source, target, attention, shift)
        skipped = len(split_words(prefix))
        record["alignment"] = pharaoh([(s - skipped, t) for s, t in links if s >= skipped])
    return record


def with_minimum_risk(records: list[dict[str, Any]], texts: list[str]) -> list[dict[str, Any]]:
    """The record with the largest expected utility, which it gets as `utility`.

    Raises:
        ValueError: there is one output only.
    """
    if len(records) < 2:
        raise ValueError(
            "mbr chooses among several outputs of a text, but there is one: set num_return_sequences, as "
            "num_return_sequences=8 with num_beams=8, or with do_sample=True and num_beams=1"
        )
    utilities = expected_utilities(texts)
    best = max(utilities)
    return [{**records[utilities.index(best)], "utility": best}]


def without_none(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def has_language_tokens(tokenizer: Any) -> bool:
    """Whether the tokenizer has language tokens, such as mBART's `es_XX` or this package's `<2es>`."""
    return hasattr(tokenizer, "_build_translation_inputs") or bool(getattr(tokenizer, "languages", None))


def intended_length(model: Any, tokenizer: Any) -> float:
    """The longest input that the tokenizer and the config state, infinite if neither does."""
    stated = [tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None)]
    return min((length for length in stated if length and length < VERY_LARGE_INTEGER), default=math.inf)


def number_of_positions(model: Any) -> float:
    """The size of the encoder's table of positions, infinite if positions are computed."""
    tables = [
        module
        for name, module in model.get_encoder().named_modules()
        if "position" in name and isinstance(module, nn.Embedding)
    ]
    return min((table.num_embeddings - getattr(table, "offset", 0) for table in tables), default=math.inf)
