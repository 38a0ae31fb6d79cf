"""The paper's beam search (section 6.1) with the penalties of Wu et al. 2016 (arXiv 1609.08144).

A hypothesis Y for a source X ranks by s(Y, X) = log P(Y | X) / lp(Y) + cp(X; Y), their equation 14.
"""

import torch
from torch import nn
from transformers import GenerationConfig

NEVER = float("-inf")  # the log-probability of what cannot be


def length_penalty(length: torch.Tensor | int, alpha: float) -> torch.Tensor | float:
    """lp(Y) = ((5 + |Y|) / 6)^α, where |Y| counts the end token."""
    return ((5 + length) / 6) ** alpha


def coverage_penalty(coverage: torch.Tensor, beta: float) -> torch.Tensor:
    """cp(X; Y) = β Σ_i log(min(Σ_j p_ij, 1)).

    Args:
        coverage: Σ_j p_ij, the attention that each source token got from all target tokens, `(..., source)`;
            1 where there is padding. A sum that underflows to 0 counts as the smallest normal number.
    """
    return beta * coverage.clamp(torch.finfo(coverage.dtype).tiny, 1).log().sum(-1)


class BeamSearch:
    """The hypotheses for a batch of sentences: fed with log-probabilities step by step, it knows no model.

    As in the paper's own code (tensor2tensor), live and finished hypotheses are kept apart. A step takes the
    best continuations of a sentence's live hypotheses, so many that `beams` can live on when all that may
    end do. Those that ended are ranked among the finished by s(Y, X); of the others the `beams` most probable
    live on (they have one length, and may still cover what they have not). At its length limit a hypothesis
    ends with the end token, at that token's own probability (as in fairseq); only if it cannot, because a
    processor forbids it or there is no end token, does it count as it stands.

    A sentence is done when no live hypothesis can outrank the `returned` best finished ones: log P only falls
    as a hypothesis grows and cp is at most 0, so that log P / lp, with the largest lp that lies ahead, is a
    bound. (A processor that adds to log-probabilities, such as a positive `sequence_bias`, voids it.)

    Args:
        settings: with `num_beams`, `num_return_sequences`, the penalties and the special tokens.
        prompts: what every output begins with, `(sentences * width, length)`. The `width` hypotheses of a
            sentence are all the same in the first step, so that one is enough.
        limits: the most tokens that may follow the prompt, `(sentences,)`.
        coverage: before the first step, `(sentences * width, source)`: 0, and 1 at padding; None without cp.
        drop_done: take a sentence out of the batch when it is done.

    Attributes:
        tokens: the live hypotheses `(sentences, width, length)`, whose rows are the model's next batch.
        scores: their log P(Y | X), `(sentences, width)`.
        sentences: the number of each sentence that is still in the batch.
        ranks, finished: s(Y, X) `(sentences, num_beams)`, best first, and tokens of the finished hypotheses.
        origins, finished_origins: for each token after the prompt the row of the batch that predicted it.
    """

    def __init__(
        self,
        settings: GenerationConfig,
        prompts: torch.Tensor,
        limits: torch.Tensor,
        coverage: torch.Tensor | None,
        drop_done: bool,
    ):
        self.beams, self.returned = settings.num_beams, settings.num_return_sequences
        self.alpha, self.beta = settings.length_penalty, settings.coverage_penalty
        self.stop_early, self.drop_done = settings.early_stopping is True, drop_done
        end, pad = settings._eos_token_tensor, settings._pad_token_tensor
        self.end = prompts.new_empty(0) if end is None else end
        self.pad = None if pad is None else int(pad)
        self.pad_may_follow = self.pad is None or self.pad in self.end
        self.limits, self.shortest_limit, longest = limits, int(limits.min()), int(limits.max())

        self.tokens = prompts.unflatten(0, (len(limits), -1))
        self.origins = self.tokens[..., :0]
        self.scores = torch.full(self.tokens.shape[:2], NEVER, device=prompts.device)
        self.scores[:, 0] = 0.0
        self.coverage = None if coverage is None else coverage.unflatten(0, (len(limits), -1))
        self.sentences = torch.arange(len(limits), device=prompts.device)
        self.length = 0  # |Y| of the live hypotheses
        self.done = False

        self.ranks = torch.full((len(limits), self.beams), NEVER, device=prompts.device)
        self.finished = nn.functional.pad(
            self.tokens[:, :1].expand(-1, self.beams, -1), (0, longest), value=self.pad or 0
        )
        self.finished_origins = prompts.new_full((len(limits), self.beams, longest), -1)

    def step(self, log_probs, attention=None, criteria=None) -> torch.Tensor:
        """Adds a token to every hypothesis.

        Args:
            log_probs: of the next token, `(sentences * width, vocabulary)`.
            attention: which that token paid to the source, `(sentences * width, source)`.
            criteria: a function from tokens `(rows, length)` to whether they end there, `(rows,)`.

        Returns:
            for each row of the next batch the row of this one that it continues.
        """
        batch, width, _ = self.tokens.shape
        self.length += 1
        at_limit = self.limits == self.length  # (batch,)
        if not self.pad_may_follow:
            log_probs[:, self.pad] = NEVER
        if self.length >= self.shortest_limit and len(self.end):
            can_end = (log_probs[:, self.end] > NEVER).any(1)
            log_probs = leave_only(self.end, log_probs, at_limit.repeat_interleave(width) & can_end)

        count = self.beams * (1 + max(1, len(self.end)))
        gains, next_tokens = top_k(log_probs, count)  # (batch * width, count)
        scores = (self.scores[..., None] + gains.unflatten(0, (batch, width))).flatten(1)
        scores, index = scores.topk(min(count, scores.shape[1]))  # (batch, candidates)
        parents = index // gains.shape[1]
        next_tokens = next_tokens.reshape(batch, -1).gather(1, index)
        rows = torch.arange(batch, device=parents.device)[:, None] * width + parents
        tokens = torch.cat([gather_rows(self.tokens, parents), next_tokens[..., None]], dim=-1)
        origins = torch.cat([gather_rows(self.origins, parents), rows[..., None]], dim=-1)

        ended = torch.isin(next_tokens, self.end) | at_limit[:, None]
        if criteria is not None:
            ended |= criteria(tokens.flatten(0, 1)).view_as(ended)
        ranks = scores / length_penalty(self.length, self.alpha)
        if self.coverage is not None:
            self.coverage = gather_rows(self.coverage + attention.view_as(self.coverage), parents)
            ranks = ranks + coverage_penalty(self.coverage, self.beta)
        if ended.any():
            self._finish(ranks.masked_fill(~ended, NEVER), tokens, origins)

        self.scores, kept = scores.masked_fill(ended, NEVER).topk(min(self.beams, scores.shape[1]))
        self.tokens, self.origins, rows = (
            gather_rows(tokens, kept),
            gather_rows(origins, kept),
            rows.gather(1, kept),
        )
        if self.coverage is not None:
            self.coverage = gather_rows(self.coverage, kept)
        return self._leave_out_done(rows)

    def _finish(self, ranks, tokens, origins):
        """Ranks candidates, `(batch, candidates)` and their tokens, among the finished hypotheses."""
        batch, unused = self.sentences, self.finished.shape[-1] - tokens.shape[-1]
        tokens = nn.functional.pad(tokens, (0, unused), value=self.pad or 0)
        origins = nn.functional.pad(origins, (0, unused), value=-1)
        ranks = torch.cat([self.ranks[batch], ranks], dim=1)
        ranks, kept = ranks.sort(dim=1, descending=True, stable=True)  # an empty place stays empty
        self.ranks[batch], kept = ranks[:, : self.beams], kept[:, : self.beams]
        self.finished[batch] = gather_rows(torch.cat([self.finished[batch], tokens], dim=1), kept)
        self.finished_origins[batch] = gather_rows(
            torch.cat([self.finished_origins[batch], origins], dim=1), kept
        )

    def _leave_out_done(self, rows):
        longest = self.limits if self.alpha > 0 else self.length + 1
        bound = self.scores[:, 0] / length_penalty(longest, self.alpha)
        going = bound > self.ranks[self.sentences, self.returned - 1]
        if self.stop_early:
            going &= self.ranks[self.sentences, -1] == NEVER
        still_going = int(going.sum())
        self.done = still_going == 0
        if still_going in (0, len(going)):
            return rows.flatten()
        if not self.drop_done:
            self.scores = self.scores.masked_fill(~going[:, None], NEVER)
            return rows.flatten()
        self.tokens, self.origins, self.scores = self.tokens[going], self.origins[going], self.scores[going]
        self.sentences, self.limits = self.sentences[going], self.limits[going]
        if self.coverage is not None:
            self.coverage = self.coverage[going]
        return rows[going].flatten()


def leave_only(ids: torch.Tensor, scores: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Scores `(rows, vocabulary)` where, in the rows marked `(rows,)`, all other ids are impossible."""
    others = torch.ones(scores.shape[-1], dtype=torch.bool, device=scores.device)
    others[ids] = False
    return scores.masked_fill(rows[:, None] & others, NEVER)


def gather_rows(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """`values[i, index[i, j]]` for all i and j: `(a, b, c)` and `(a, d)` to `(a, d, c)`."""
    return values.gather(1, index[..., None].expand(*index.shape, values.shape[-1]))


def top_k(values: torch.Tensor, count: int, block: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """`values.topk(count)` of a matrix with wide rows, up to four times as fast.

    The `count` largest values lie in the `count` blocks with the largest maxima: only these are sorted.
    """
    blocks = values.shape[1] // block
    if blocks < 2 * count:
        return values.topk(min(count, values.shape[1]))
    blocked = values[:, : blocks * block].unflatten(1, (blocks, block))
    best = blocked.amax(-1).topk(count).indices  # (rows, count)
    places = torch.arange(block, device=values.device)
    ids = (best[..., None] * block + places).flatten(1)
    rest = torch.arange(blocks * block, values.shape[1], device=values.device)
    ids = torch.cat([ids, rest.expand(len(values), -1)], dim=1)
    top, place = values.gather(1, ids).topk(count)
    return top, ids.gather(1, place)
