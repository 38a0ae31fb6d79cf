"""Diverse beam search of Vijayakumar et al. 2018 (arXiv 1610.02424): groups of beams avoid each other."""

from collections.abc import Callable

import torch

from .beam_search import IMPOSSIBLE, BeamSearch, gather_rows


class DiverseBeamSearch:
    """One `BeamSearch` for each group of beams, with the interface of `BeamSearch`.

    At each step the groups choose their tokens one after the other. For each live hypothesis of an earlier
    group that got a token in this step, the log-probability of this token falls by `penalty`: the paper's
    Hamming diversity, with the arguments `num_beam_groups` and `diversity_penalty` of transformers 4. The
    scores of hypotheses include the penalty. When all groups of a sentence are done, its finished hypotheses
    are ranked together; two groups may find the same one.

    Args:
        start: returns a `BeamSearch` for one group, of all sentences, from its prompts. It must keep the rows
            of sentences that are done (`drop_done=False`).
        prompts: as for `BeamSearch`; `width` is 1, or the beams of all groups.
        groups: the number of groups.
        penalty: not negative; with 0 all groups find the same.
        returned, drop_done: as for `BeamSearch`.

    Attributes:
        tokens, sentences, done: as those of `BeamSearch`, of all groups.
        ranks, finished, finished_origins: the same, when all sentences are done.
    """

    ranks: torch.Tensor
    finished: torch.Tensor
    finished_origins: torch.Tensor

    def __init__(
        self,
        start: Callable[[torch.Tensor], BeamSearch],
        prompts: torch.Tensor,
        sentences: int,
        *,
        groups: int,
        penalty: float,
        returned: int = 1,
        drop_done: bool = True,
    ):
        self.penalty, self.returned, self.drop_done = penalty, returned, drop_done
        self.tokens = prompts.unflatten(0, (sentences, -1))
        parts = [self.tokens] * groups if self.tokens.shape[1] == 1 else self.tokens.chunk(groups, dim=1)
        self.groups = [start(part.flatten(0, 1)) for part in parts]
        self.sentences = torch.arange(sentences, device=prompts.device)
        self.done = False

    def step(
        self,
        log_probs: torch.Tensor,
        attention: torch.Tensor | None = None,
        criteria: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """As that of `BeamSearch`; `log_probs`, changed in place, get the penalty."""
        batch, width, _ = self.tokens.shape
        shared = width == 1  # the first step may read one row for all groups
        by_sentence = log_probs.unflatten(0, (batch, width))  # (sentences, width, vocabulary)
        first_rows = torch.arange(0, batch * width, width, device=log_probs.device)[:, None]
        parents, begin = [], 0
        for group in self.groups:
            end = begin + group.tokens.shape[1]
            seen = None
            if attention is not None:
                seen = attention.unflatten(0, (batch, width))[:, begin:end].flatten(0, 1)
            own = by_sentence[:, begin:end].flatten(0, 1)
            rows = group.step(own, seen, criteria, first_rows + begin)
            parents.append(rows.view(batch, -1))
            later = by_sentence if shared else by_sentence[:, end:]
            chosen = group.tokens[:, None, :, -1].expand(-1, later.shape[1], -1)
            cost = (-self.penalty * group.possible)[:, None].expand_as(chosen)
            later.scatter_add_(2, chosen, cost)
            begin = 0 if shared else end
        self.tokens = torch.cat([group.tokens for group in self.groups], dim=1)
        return self._drop_done(torch.cat(parents, dim=1))

    def _drop_done(self, rows: torch.Tensor) -> torch.Tensor:
        """Removes the sentences of which all groups are done; returns the flat rows of the next batch."""
        self.done = all(group.done for group in self.groups)
        if self.done:
            self._rank_together()
        elif self.drop_done:
            active = torch.cat([group.scores for group in self.groups], dim=1).amax(1) > IMPOSSIBLE
            if not active.all():
                for group in self.groups:
                    group.keep_sentences(active)
                self.tokens, self.sentences, rows = self.tokens[active], self.sentences[active], rows[active]
        return rows.flatten()

    def _rank_together(self) -> None:
        ranks = torch.cat([group.ranks for group in self.groups], dim=1)
        self.ranks, order = ranks.sort(dim=1, descending=True, stable=True)
        self.finished, self.finished_origins = (
            gather_rows(torch.cat(parts, dim=1), order)
            for parts in zip(*((group.finished, group.finished_origins) for group in self.groups))
        )
