"""Beam search that is too slow and too simple to be wrong, for tests of the real one."""

from collections.abc import Callable

import torch

START, PAD, END = 0, 1, 2


def words(sequence: torch.Tensor) -> tuple[int, ...]:
    """The generated tokens, without the start token and padding."""
    return tuple(token for token in sequence[1:].tolist() if token != PAD)


def plain_search(
    predict: Callable, beams: int, limit: int, returned: int, alpha: float, beta: float = 0.0
) -> list[tuple[float, tuple[int, ...]]]:
    """Searches for one sentence, on lists and up to the limit: scores and tokens, best first.

    `predict` maps `(rows, length)` prefixes to log-probabilities `(rows, vocabulary)` and to the attention of
    the next token, `(rows, source)`.
    """
    live, finished = [(0.0, (), 0.0)], []
    for length in range(1, limit + 1):
        log_probs, attention = predict(torch.tensor([[START, *output] for _, output, _ in live]))
        candidates = [
            (log_p + log_probs[row, token].item(), (*output, token), received + attention[row])
            for row, (log_p, output, received) in enumerate(live)
            for token in range(log_probs.shape[1])
            if token != PAD and (token == END or length < limit)
        ]
        candidates = sorted(candidates, key=lambda candidate: -candidate[0])[: 2 * beams]
        live = [candidate for candidate in candidates if candidate[1][-1] != END][:beams]
        penalty = ((5 + length) / 6) ** alpha
        finished += [
            (log_p / penalty + beta * received.clamp(max=1).log().sum().item(), output)
            for log_p, output, received in candidates
            if output[-1] == END
        ]
    return sorted(finished, reverse=True)[:returned]
