"""Scores of outputs that are given: one forward pass of an encoder-decoder model over all of them.

    ids = model.generate(**batch, num_return_sequences=4)
    scores = sequence_scores(model, batch, ids)  # one dict for each of the outputs

The search may so run at full speed. The pass costs little, because it computes all tokens at once.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from .beam_search import coverage_penalty, length_penalty

MOST_TOKENS = 1024  # of a forward pass; the logits of more would fill the memory


class Forced(NamedTuple):
    """What a forward pass over given outputs computes; a row is an output.

    Attributes:
        log_probs: of each token after the prompt, `(rows, length)`; 0 at padding.
        lengths: the tokens of each row after the prompt, with the end token, `(rows,)`.
        attention: of each layer that is asked for, `(rows, prompt + length, source)`, where each token is the
            decoder's input: its cross-attention, the mean over the heads.
    """

    log_probs: torch.Tensor
    lengths: torch.Tensor
    attention: dict[int, torch.Tensor]


def sequence_scores(
    model: Any,
    inputs: Mapping[str, torch.Tensor],
    sequences: torch.Tensor,
    prompt_length: int = 1,
    ensemble: Sequence[Any] = (),
    **settings: Any,
) -> list[dict[str, Any]]:
    """Scores outputs of an encoder-decoder model, by the model's own probabilities.

    These are the scores of a search, unless processors such as `repetition_penalty` change its probabilities.

    Args:
        inputs: `input_ids` and `attention_mask` of the texts, `(texts, length)`.
        sequences: ids as `generate` returns them, `(texts * outputs of each text, length)`.
        prompt_length: the first tokens, which get no score: the start token, or the caller's prompt.
        ensemble: other models with the same vocabulary, as for `generate`.
        settings: `length_penalty_type`, `length_penalty`, `coverage_penalty`; by default those of
            `model.generation_config`.

    Returns:
        for each sequence, `log_probability`: log P(Y | X); `score`: s(Y, X), which ranks the outputs of a
        beam search; and `token_log_probabilities`: of each token after the prompt, with the end token.

    Example:
        >>> scores = sequence_scores(model, source, model.generate(**source))
        >>> sorted(scores[0])
        ['log_probability', 'score', 'token_log_probabilities']
    """
    settings = model.generation_config.to_dict() | settings
    forced = force(model, inputs, sequences, prompt_length, layers_for(settings), ensemble)
    score = scores_of(forced, settings, inputs.get("attention_mask"), prompt_length)
    return [
        {
            "log_probability": float(log_probs.sum()),
            "score": float(of_row),
            "token_log_probabilities": log_probs[:length].tolist(),
        }
        for log_probs, length, of_row in zip(forced.log_probs, forced.lengths, score)
    ]


def layers_for(settings: Mapping[str, Any]) -> list[int]:
    """The layers whose attention `scores_of` needs."""
    return [-1] if settings.get("coverage_penalty") else []


def scores_of(
    forced: Forced, settings: Mapping[str, Any], source_mask: torch.Tensor | None, prompt_length: int = 1
) -> torch.Tensor:
    """s(Y, X) of each row under these settings; a coverage penalty needs the attention of the last layer."""
    alpha, beta = settings.get("length_penalty"), settings.get("coverage_penalty")
    alpha = 1.0 if alpha is None else float(alpha)
    is_paper = settings.get("length_penalty_type") == "gnmt"
    lengths = forced.lengths.clamp(min=1)
    ranks = forced.log_probs.sum(-1) / (length_penalty(lengths, alpha) if is_paper else lengths**alpha)
    if not beta:
        return ranks
    attention = forced.attention[-1]
    position = torch.arange(attention.shape[1], device=ranks.device)
    predicts = position < (forced.lengths + prompt_length - 1)[:, None]  # not where the end is the input
    coverage = (attention * predicts[..., None]).sum(1)  # (rows, source)
    if source_mask is not None:
        outputs = len(coverage) // len(source_mask)
        coverage = coverage.masked_fill(source_mask.repeat_interleave(outputs, 0) == 0, 1.0)
    return ranks + coverage_penalty(coverage, beta)


@torch.no_grad()
def force(
    model: Any,
    inputs: Mapping[str, torch.Tensor],
    sequences: torch.Tensor,
    prompt_length: int = 1,
    layers: Sequence[int] = (),
    ensemble: Sequence[Any] = (),
) -> Forced:
    """Runs the model over given outputs, a few at a time, and keeps the attention of these layers.

    With an ensemble, probabilities and the attention of the last layer (-1) are the mean over all models.
    """
    if ensemble:
        shared = [layer for layer in layers if layer == -1]
        first = force(model, inputs, sequences, prompt_length, layers)
        others = [force(each, inputs, sequences, prompt_length, shared) for each in ensemble]
        mean = mean_of_probabilities([first.log_probs, *(each.log_probs for each in others)])
        means = {
            layer: torch.stack([each.attention[layer] for each in (first, *others)]).mean(0)
            for layer in shared
        }
        return Forced(mean.clamp(max=0), first.lengths, first.attention | means)
    mask, outputs = inputs.get("attention_mask"), len(sequences) // len(inputs["input_ids"])
    memory = model.get_encoder()(input_ids=inputs["input_ids"], attention_mask=mask).last_hidden_state
    texts = torch.arange(len(memory), device=memory.device).repeat_interleave(outputs)
    lengths = output_lengths(model, sequences, prompt_length)
    log_probs: list[torch.Tensor] = []
    attention: dict[int, list[torch.Tensor]] = {layer: [] for layer in layers}
    with attention_weights(model, bool(layers)):
        for rows in torch.arange(len(sequences), device=memory.device).split(
            max(1, MOST_TOKENS // sequences.shape[1])
        ):
            passed = model(
                encoder_outputs=BaseModelOutput(last_hidden_state=memory[texts[rows]]),
                attention_mask=None if mask is None else mask[texts[rows]],
                decoder_input_ids=sequences[rows],
                use_cache=False,
                output_attentions=bool(layers),
            )
            logits = passed.logits[:, prompt_length - 1 : -1].float()
            chosen = logits.gather(-1, sequences[rows, prompt_length:, None])[..., 0]
            log_probs.append(chosen - logits.logsumexp(-1))
            for layer, parts in attention.items():
                parts.append(passed.cross_attentions[layer].float().mean(1))
    real = torch.arange(sequences.shape[1] - prompt_length, device=memory.device) < lengths[:, None]
    weights = {layer: torch.cat(parts) for layer, parts in attention.items()}
    return Forced(torch.cat(log_probs).where(real, 0.0), lengths, weights)


def mean_of_probabilities(log_probs: Sequence[torch.Tensor]) -> torch.Tensor:
    """The logarithm of the mean of probabilities, from tensors of log-probabilities of one shape."""
    return reduce(torch.logaddexp, log_probs) - math.log(len(log_probs))  # faster than logsumexp


def output_lengths(model: Any, sequences: torch.Tensor, prompt_length: int = 1) -> torch.Tensor:
    """The tokens after the prompt, up to and with the first end token, `(rows,)`.

    An output without an end token has all tokens but the padding behind them.
    """
    settings, output = model.generation_config, sequences[:, prompt_length:]
    position = torch.arange(1, output.shape[1] + 1, device=output.device)
    lengths = torch.full_like(output[:, :1], output.shape[1])[:, 0]
    if settings.pad_token_id is not None:
        lengths = (position * (output != settings.pad_token_id)).amax(1)
    if settings.eos_token_id is None:
        return lengths
    ends = torch.isin(output, torch.tensor(settings.eos_token_id, device=output.device))
    first = position.where(ends, output.shape[1] + 1).amin(1)
    return first.where(ends.any(1), lengths)


@contextmanager
def attention_weights(model: nn.Module, wanted: bool) -> Iterator[None]:
    """Within it, a forward pass can return attention weights, which fast kernels do not compute."""
    config: Any = model.config
    before = config._attn_implementation
    if not wanted or before == "eager":
        yield
        return
    set_implementation: Any = model.set_attn_implementation
    set_implementation("eager")
    try:
        yield
    finally:
        set_implementation(before)


__all__ = ["sequence_scores"]
