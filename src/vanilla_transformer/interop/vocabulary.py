"""More words for a trained model: new tokens that start as the mean of the pieces they replace."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

from ..tokenization_vanilla_transformer import VanillaTransformerTokenizer


def extend_vocabulary(
    model: PreTrainedModel,
    tokenizer: VanillaTransformerTokenizer,
    columns: Iterable[Iterable[str]],
    new_tokens: int = 1000,
    min_frequency: int = 2,
) -> int:
    """Learns new tokens from text columns, before fine-tuning, and returns how many.

    Greedy outputs for sources without new tokens do not change: the logit of a new token is the mean of those
    of its pieces, so that it is never the largest alone.

    Raises:
        TypeError: the tokenizer is not of this package.
        ValueError: source and target have separate vocabularies.
    """
    if not isinstance(tokenizer, VanillaTransformerTokenizer):
        raise TypeError(
            f"{type(tokenizer).__name__} cannot learn new tokens: extend_vocabulary needs a "
            "VanillaTransformerTokenizer"
        )
    if len(tokenizer) != model.config.vocab_size:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens, but the model has {model.config.vocab_size}: give "
            "those of one folder"
        )
    if model.config.target_vocab_size is not None:
        raise ValueError("source and target have separate vocabularies: one tokenizer cannot extend both")
    added = tokenizer.extend(columns, new_tokens, min_frequency)
    if added:
        add_rows(model, added)
    return len(added)


@torch.no_grad()
def add_rows(model: Any, added: Mapping[int, list[int]]) -> None:
    """Adds a row to every matrix of words for each new id: the mean of the rows of these old ids."""
    model.resize_token_embeddings(max(added) + 1, mean_resizing=False)
    stacks = [stack for name in ("encoder", "decoder") if (stack := getattr(model.base_model, name, None))]
    matrices = [stack.embed_tokens.weight for stack in stacks]
    if (output := model.get_output_embeddings()) is not None:
        matrices += [output.weight] + ([] if output.bias is None else [output.bias])
    for matrix in {matrix.data_ptr(): matrix for matrix in matrices}.values():
        for new, old in added.items():
            matrix[new] = matrix[old].mean(dim=0)
