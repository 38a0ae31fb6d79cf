"""Beam search with the penalties of Wu et al. 2016 (arXiv 1609.08144), which the paper uses (section 6.1).

A hypothesis Y for a source X has the score s(Y, X) = log P(Y | X) / lp(Y) + cp(X; Y), their equation 14.
The search knows no model. It reads log-probabilities, and returns which rows of its batch to continue:

    search = BeamSearch(prompts, limits, beams=4, alpha=0.6, end=torch.tensor([2]))
    rows = torch.arange(len(prompts))
    while not search.done:
        # `rows` says how to reorder a cache; log_probs is (rows, vocabulary)
        log_probs = next_token_log_probs(search.tokens.flatten(0, 1), rows)
        rows = search.step(log_probs)
    best = search.finished[:, 0]
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

IMPOSSIBLE = float("-inf")  # the log-probability of a token or hypothesis that may not occur


def length_penalty(length: torch.Tensor | int, alpha: float) -> torch.Tensor | float:
    """lp(Y) = ((5 + |Y|) / 6)^α, where |Y| counts the end token."""
    return ((5 + length) / 6) ** alpha


def coverage_penalty(coverage: torch.Tensor, beta: float) -> torch.Tensor:
    """cp(X; Y) = β Σ_i log(min(Σ_j p_ij, 1)).

    Args:
        coverage: Σ_j p_ij, the attention that all target tokens paid to each source token, `(..., source)`;
            1 at padding. A sum that underflows to 0 counts as the smallest normal number.
    """
    return beta * coverage.clamp(torch.finfo(coverage.dtype).tiny, 1).log().sum(-1)


class BeamSearch:
    """Searches the best outputs for a batch of sentences, one token per step.

    Live and finished hypotheses are kept apart, as in the paper's own code (tensor2tensor). A step computes
    the best continuations of a sentence's live hypotheses. Those that end are ranked among the finished ones
    by s(Y, X). Of the others, the `beams` most probable stay alive; s(Y, X) does not rank them, because they
    have equal length and may still cover the rest of the source.

    A hypothesis that reaches its length limit gets the end token, at that token's own probability (as in
    fairseq). If a processor forbids the end token, or there is none, the hypothesis finishes as it is.

    With `terms`, candidates are all continuations by a term's next token too, the live hypotheses have the
    beam by banks, and only those with all terms finish; see `ForcedTerms`.

    A sentence is done when no live hypothesis can outrank its `returned` best finished ones. The bound is
    log P / lp with the largest lp that lies ahead: log P only falls as a hypothesis grows, and cp is never
    positive.
    (A processor that raises log-probabilities, such as a positive `sequence_bias`, breaks this bound.)

    Args:
        prompts: the first tokens of every output, `(sentences * width, length)`. The `width` rows of a
            sentence are equal, so `width` may be 1.
        limits: the largest number of tokens after the prompt, `(sentences,)`.
        beams: live hypotheses per sentence, and finished ones that are kept.
        returned: finished hypotheses that the caller will read; more of them make the search longer.
        alpha, beta: α of the length penalty, β of the coverage penalty.
        end: ids of the end tokens.
        pad: a token that the search never predicts, unless it is also an end token. It fills finished rows.
        coverage: before the first step, `(sentences * width, source)`: 0, and 1 at padding. None without cp.
        stop_early: a sentence is done as soon as it has `beams` finished hypotheses.
        drop_done: remove a sentence from the batch when it is done.
        check_every: steps between two looks at whether all are done. On a GPU each look waits for the device;
            steps after the end change nothing.
        terms: a `ForcedTerms`, by which outputs contain the terms of their sentence.

    Attributes:
        tokens: the live hypotheses `(sentences, width, length)`; their rows are the model's next batch.
        scores: their log P(Y | X), `(sentences, width)`.
        possible: after a step, which of them it continued, `(sentences, width)`.
        sentences: the index of each sentence that is still in the batch.
        ranks: s(Y, X) of the finished hypotheses, best first, `(all sentences, beams)`.
        finished: their tokens, `(all sentences, beams, length)`.
        origins, finished_origins: for each token after the prompt, the row of the batch that predicted it.
        length: |Y| of the live hypotheses.
        done: whether all sentences are done.
    """

    def __init__(
        self,
        prompts: torch.Tensor,
        limits: torch.Tensor,
        *,
        beams: int,
        alpha: float,
        beta: float = 0.0,
        returned: int = 1,
        end: torch.Tensor | None = None,
        pad: int | None = None,
        coverage: torch.Tensor | None = None,
        stop_early: bool = False,
        drop_done: bool = True,
        check_every: int = 1,
        terms: Any = None,
    ):
        self.beams, self.returned, self.alpha, self.beta = beams, returned, alpha, beta
        self.stop_early, self.drop_done, self.check_every = stop_early, drop_done, check_every
        self.terms = terms
        self.end = prompts.new_empty(0) if end is None else end
        self.never = None if pad in self.end.tolist() else pad
        self.filler = pad or 0
        self.limits, self.shortest_limit, self.longest_limit = limits, int(limits.min()), int(limits.max())

        sentences = len(limits)
        self.tokens = prompts.unflatten(0, (sentences, -1))
        self.origins = self.tokens[..., :0]
        self.scores = torch.full(self.tokens.shape[:2], IMPOSSIBLE, device=prompts.device)
        self.scores[:, 0] = 0.0  # the first step continues one of a sentence's equal rows
        self.coverage = None if coverage is None else coverage.unflatten(0, (sentences, -1))
        self.sentences = torch.arange(sentences, device=prompts.device)
        self.length = 0
        self.done = False
        self.rivals = returned  # finished hypotheses, the last of which a live one must be able to outrank
        self.candidates: int | None = None  # how many of a step's best may finish; None for all of them
        self.ends_at_limit = True  # with the end token

        self.ranks = torch.full((sentences, beams), IMPOSSIBLE, device=prompts.device)
        self.finished = nn.functional.pad(
            self.tokens[:, :1].expand(-1, beams, -1), (0, self.longest_limit), value=self.filler
        )
        self.finished_origins = prompts.new_full((sentences, beams, self.longest_limit), -1)

    def step(
        self,
        log_probs: torch.Tensor,
        attention: torch.Tensor | None = None,
        criteria: Callable[[torch.Tensor], torch.Tensor] | None = None,
        first_rows: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Adds one token to every live hypothesis.

        Args:
            log_probs: of the next token, `(sentences * width, vocabulary)`; changed in place.
            attention: of the next token to the source, `(sentences * width, source)`; needed with coverage.
            criteria: a function of tokens `(rows, length)` that returns which rows end there, `(rows,)`.
            first_rows: the row of each sentence's first hypothesis, `(sentences, 1)`, where the rows of this
                search are a part of the batch.

        Returns:
            for each row of the next batch, the row of this batch that it continues.
        """
        batch, width, _ = self.tokens.shape
        self.length += 1
        if self.never is not None:
            log_probs[:, self.never] = IMPOSSIBLE
        if self.terms is not None:
            self.terms.restrict(log_probs, self.tokens, self.limits - self.length + 1)
        at_limit = self.limits <= self.length if self.length >= self.shortest_limit else None  # (batch,)
        if at_limit is not None and self.ends_at_limit and len(self.end):
            can_end = (log_probs[:, self.end] > IMPOSSIBLE).any(1)
            log_probs = allow_only(self.end, log_probs, at_limit.repeat_interleave(width) & can_end)

        # Enough candidates that `beams` hypotheses live on, even if all of them end with every end token.
        count = self.beams * (1 + max(1, len(self.end)))
        gains, next_tokens = top_k(log_probs, count)  # (batch * width, count)
        if self.terms is not None:
            gains, next_tokens = self.terms.with_next(log_probs, gains, next_tokens)
        scores = (self.scores[..., None] + gains.unflatten(0, (batch, width))).flatten(1)
        kept_candidates = scores.shape[1] if self.terms is not None else min(count, scores.shape[1])
        scores, index = scores.topk(kept_candidates)  # (batch, candidates)
        parents = index // gains.shape[1]
        next_tokens = next_tokens.reshape(batch, -1).gather(1, index)
        if first_rows is None:
            first_rows = torch.arange(0, batch * width, width, device=parents.device)[:, None]
        candidates = (parents, next_tokens, parents + first_rows)

        ended = torch.isin(next_tokens, self.end)
        if criteria is not None:
            ended |= criteria(self._extended(*candidates)[0].flatten(0, 1)).view_as(ended)
        if self.coverage is not None:
            assert attention is not None, "a search with coverage needs attention"
            self.coverage = gather_rows(self.coverage + attention.view_as(self.coverage), parents)
        living = scores.masked_fill(ended, IMPOSSIBLE)
        finishing = ended if at_limit is None else ended | at_limit[:, None]
        if self.terms is not None:
            most = self.candidates or count
            finishing &= self.terms.judge(self.tokens, parents, next_tokens, most)
            living = self.terms.share_out(living, self.beams)
        if self.check_every > 1 or finishing.any():
            self._finish(scores, finishing, *self._extended(*candidates))

        self.scores, kept = living.topk(min(self.beams, scores.shape[1]))
        parents, next_tokens, rows = (part.gather(1, kept) for part in candidates)
        self.tokens, self.origins = self._extended(parents, next_tokens, rows)
        self.possible = self.scores > IMPOSSIBLE
        if self.coverage is not None:
            self.coverage = gather_rows(self.coverage, kept)
        if self.terms is not None:
            self.terms.keep(kept)
        return self._drop_done(rows)

    def _extended(
        self, parents: torch.Tensor, next_tokens: torch.Tensor, rows: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The tokens and origins of the hypotheses that continue these parents, all `(batch, any number)`."""
        return (
            torch.cat([gather_rows(self.tokens, parents), next_tokens[..., None]], dim=-1),
            torch.cat([gather_rows(self.origins, parents), rows[..., None]], dim=-1),
        )

    def penalty(self, length: torch.Tensor | int) -> torch.Tensor | float:
        """What log P of a hypothesis of this length is divided by."""
        return length_penalty(length, self.alpha)

    def bounding_length(self) -> torch.Tensor | int:
        """The length at which a live hypothesis could reach its highest rank."""
        return self.limits if self.alpha > 0 else self.length + 1

    def _finish(
        self, scores: torch.Tensor, ended: torch.Tensor, tokens: torch.Tensor, origins: torch.Tensor
    ) -> None:
        """Ranks the candidates that ended, `(batch, candidates)`, among the finished hypotheses."""
        ranks = scores / self.penalty(self.length)
        if self.coverage is not None:
            ranks = ranks + coverage_penalty(self.coverage, self.beta)
        ranks = ranks.masked_fill(~ended, IMPOSSIBLE)
        if self.candidates is not None and self.terms is None:
            ranks[:, self.candidates :] = IMPOSSIBLE
        batch, unused = self.sentences, self.finished.shape[-1] - tokens.shape[-1]
        tokens = nn.functional.pad(tokens, (0, unused), value=self.filler)
        origins = nn.functional.pad(origins, (0, unused), value=-1)
        ranks = torch.cat([self.ranks[batch], ranks], dim=1)
        # Empty slots and candidates that did not end are all -inf: a stable sort keeps the empty slots.
        ranks, kept = ranks.sort(dim=1, descending=True, stable=True)
        self.ranks[batch], kept = ranks[:, : self.beams], kept[:, : self.beams]
        self.finished[batch] = gather_rows(torch.cat([self.finished[batch], tokens], dim=1), kept)
        self.finished_origins[batch] = gather_rows(
            torch.cat([self.finished_origins[batch], origins], dim=1), kept
        )

    def _drop_done(self, rows: torch.Tensor) -> torch.Tensor:
        """Finds the sentences that are done and returns the flat rows of the next batch."""
        bound = self.scores[:, 0] / self.penalty(self.bounding_length())
        active = bound > self.ranks[self.sentences, self.rivals - 1]
        if self.length >= self.shortest_limit:
            active &= self.limits > self.length
        if self.stop_early:
            active &= self.ranks[self.sentences, -1] == IMPOSSIBLE
        if not self.drop_done:
            self.scores = self.scores.masked_fill(~active[:, None], IMPOSSIBLE)
            if self.length >= self.longest_limit:
                self.done = True
            elif self.length % self.check_every == 0:
                self.done = not active.any()
            return rows.flatten()
        still_active = int(active.sum())
        self.done = still_active == 0
        if still_active in (0, len(active)):
            return rows.flatten()
        self.keep_sentences(active)
        return rows[active].flatten()

    def keep_sentences(self, active: torch.Tensor) -> None:
        """Removes the other sentences from the batch; `active` is `(sentences in the batch,)`."""
        self.tokens, self.origins, self.scores = (
            self.tokens[active],
            self.origins[active],
            self.scores[active],
        )
        self.sentences, self.limits = self.sentences[active], self.limits[active]
        if self.coverage is not None:
            self.coverage = self.coverage[active]
        if self.terms is not None:
            self.terms.keep_sentences(active)


class TransformersBeamSearch(BeamSearch):
    """The search of transformers: log P(Y | X) / |Y|^α, and another rule for the end.

    Only the `beams` best continuations of a step may finish. A hypothesis that reaches its limit finishes
    as it is. Without `strict`, a sentence is done when its best live hypothesis could not replace one of its
    `beams` finished ones *at its present length*, a heuristic (`early_stopping=False` in transformers).
    """

    def __init__(self, *args: Any, strict: bool, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.strict = strict
        self.candidates = self.rivals = self.beams
        self.ends_at_limit = False
        self.never = None

    def penalty(self, length: torch.Tensor | int) -> torch.Tensor | float:
        return length**self.alpha

    def bounding_length(self) -> torch.Tensor | int:
        return self.limits if self.strict and self.alpha > 0 else self.length


def allow_only(ids: torch.Tensor, scores: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Returns scores `(rows, vocabulary)` that forbid all other ids in the rows marked `(rows,)`."""
    others = torch.ones(scores.shape[-1], dtype=torch.bool, device=scores.device)
    others[ids] = False
    return scores.masked_fill(rows[:, None] & others, IMPOSSIBLE)


def gather_rows(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """`values[i, index[i, j]]` for all i and j: `(a, b, c)` and `(a, d)` to `(a, d, c)`."""
    return values.gather(1, index[..., None].expand(*index.shape, values.shape[-1]))


def top_k(values: torch.Tensor, count: int, block: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """`values.topk(count)` of a matrix, up to four times as fast where it is large and its rows are wide.

    The `count` largest values lie in the `count` blocks with the largest maxima: only these are searched.
    """
    blocks = values.shape[1] // block
    if blocks < 2 * count or values.numel() < 2**15:
        return values.topk(min(count, values.shape[1]))
    blocked = values[:, : blocks * block].unflatten(1, (blocks, block))
    best = blocked.amax(-1).topk(count).indices  # (rows, count)
    offsets = torch.arange(block, device=values.device)
    ids = (best[..., None] * block + offsets).flatten(1)
    rest = torch.arange(blocks * block, values.shape[1], device=values.device)
    ids = torch.cat([ids, rest.expand(len(values), -1)], dim=1)  # (rows, count * block + rest)
    top, index = values.gather(1, ids).topk(count)
    return top, ids.gather(1, index)
