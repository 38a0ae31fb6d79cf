"""What the pipelines need to know about models and batches: lengths, language tokens, scores."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER
from transformers.utils import ModelOutput

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
