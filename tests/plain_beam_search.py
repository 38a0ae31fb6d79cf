"""Beam search that is too slow and too simple to be wrong, for tests of the real one."""

from collections.abc import Callable

import torch

START, PAD, END = 0, 1, 2


def words(sequence: torch.Tensor) -> tuple[int, ...]:
    """The generated tokens, without the start token and padding."""
    return tuple(token for token in sequence[1:].tolist() if token != PAD)


def plain_search(
    predict: Callable,
    beams: int,
    limit: int,
    returned: int,
    alpha: float,
    beta: float = 0.0,
    start: int = START,
    pad: int = PAD,
    end: int = END,
) -> list[tuple[float, tuple[int, ...]]]:
    """Searches for one sentence, on lists and up to the limit: scores and tokens, best first.

    `predict` maps `(rows, length)` prefixes to log-probabilities `(rows, vocabulary)` and to the attention of
    the next token, `(rows, source)`.
    """
    live, finished = [(0.0, (), 0.0)], []
    for length in range(1, limit + 1):
        log_probs, attention = predict(torch.tensor([[start, *output] for _, output, _ in live]))
        candidates = [
            (log_p + log_probs[row, token].item(), (*output, token), received + attention[row])
            for row, (log_p, output, received) in enumerate(live)
            for token in range(log_probs.shape[1])
            if token != pad and (token == end or length < limit)
        ]
        candidates = sorted(candidates, key=lambda candidate: -candidate[0])[: 2 * beams]
        live = [candidate for candidate in candidates if candidate[1][-1] != end][:beams]
        penalty = ((5 + length) / 6) ** alpha
        finished += [
            (log_p / penalty + beta * received.clamp(max=1).log().sum().item(), output)
            for log_p, output, received in candidates
            if output[-1] == end
        ]
    return sorted(finished, reverse=True)[:returned]


def plain_diverse_search(
    predict: Callable,
    beams: int,
    limit: int,
    alpha: float,
    groups: int,
    penalty: float,
    paper: bool = True,
) -> list[tuple[float, tuple[int, ...]]]:
    """Diverse beam search for one sentence, on lists: all finished outputs with their scores, best first.

    A group searches until its worst finished output cannot be replaced. `paper` chooses between the paper's
    search, and transformers 4's with `early_stopping="never"`.
    """
    size = beams // groups
    live: list[list] = [[(0.0, ())] for _ in range(groups)]
    finished: list[list] = [[] for _ in range(groups)]
    for length in range(1, limit + 1):
        taken: list[int] = []
        for group in range(groups):
            if not live[group]:
                continue
            log_probs, _ = predict(torch.tensor([[START, *output] for _, output in live[group]]))
            candidates = [
                (score + log_probs[row, token].item() - penalty * taken.count(token), (*output, token))
                for row, (score, output) in enumerate(live[group])
                for token in range(log_probs.shape[1])
                if not paper or (token != PAD and (token == END or length < limit))
            ]
            candidates = sorted(candidates, key=lambda candidate: -candidate[0])[: 2 * size]
            divisor = ((5 + length) / 6) ** alpha if paper else length**alpha
            for place, (score, output) in enumerate(candidates):
                ends = output[-1] == END or (length == limit and not paper)
                if ends and (paper or place < size):
                    finished[group].append((score / divisor, output))
            finished[group] = sorted(finished[group], reverse=True)[:size]
            live[group] = [each for each in candidates if each[1][-1] != END][:size]
            taken += [output[-1] for _, output in live[group]]
            longest = limit if alpha > 0 else length + paper
            highest = ((5 + longest) / 6) ** alpha if paper else longest**alpha
            bound = max((score for score, _ in live[group]), default=0.0) / highest
            if len(finished[group]) == size and bound <= finished[group][-1][0]:
                live[group] = []
    return sorted(sum(finished, []), key=lambda found: -found[0])
