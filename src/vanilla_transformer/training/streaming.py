"""Token batches from a stream that is too large to be measured first, with a position to resume from."""

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from ..epoch import Epoch
from .batching import NOISE, Budget, length_order, round_batches, shuffled_batches

POSITION = "stream_position"  # in a batch: where it lies in the stream


@dataclass(frozen=True)
class StreamPosition:
    """A batch in a stream: its block, its number among the block's batches, and how to find the block.

    Args:
        examples: number of examples before the block, in the epoch.
        rows: the `state_dict` of a `datasets.IterableDataset` before the block, if it has one.
    """

    epoch: int = 0
    block: int = 0
    batch: int = 0
    examples: int = 0
    rows: dict[str, Any] | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "StreamPosition":
        return cls(**json.loads(text))

    def after_update(self, batches: int) -> "StreamPosition":
        """Return the position of the next update, where an update has this many batches of all processes."""
        return replace(self, batch=(self.batch // batches + 1) * batches)


class TokenBudgetIterable(Epoch, IterableDataset):
    """Batches (lists of examples) by token budget from a stream that is too large to be measured first.

    Use it as `DataLoader(stream, batch_size=None, collate_fn=collator)`. It reads blocks of `buffer_size`
    examples; the last block of an epoch has up to twice as many. It sorts a block by length, cuts it into
    batches, as many as make whole updates, and shuffles these. A block is a function of its examples, the
    seed, the epoch and its number. So training resumes at a `StreamPosition` by reading one block, not the
    whole stream.

    When the stream ends it starts again with the number of the next epoch (a `datasets.IterableDataset`
    reshuffles by it). So the Trainer needs `max_steps` and sees one endless epoch. With `repeat=False` it
    ends after one epoch.

    Every process and every DataLoader worker reads the whole stream and takes its share of the batches. So
    the batches do not depend on their number. One worker is enough: more of them repeat the reading.

    Args:
        start: where to begin instead of at the first batch.
        with_positions: yields pairs of a batch and its `StreamPosition`, as JSON.

    Example:
        >>> stream = [{"input_ids": [5] * length, "labels": [6] * length} for length in (3, 9, 4, 8)]
        >>> batches = TokenBudgetIterable(stream, max_source_tokens=18, repeat=False)
        >>> sorted(len(batch) for batch in batches)
        [2, 2]
    """

    def __init__(
        self,
        dataset: Any,
        max_source_tokens: int | None = None,
        max_target_tokens: int | None = None,
        num_replicas: int = 1,
        rank: int = 0,
        gradient_accumulation_steps: int = 1,
        seed: int = 0,
        buffer_size: int = 16_384,
        source_column: str = "input_ids",
        target_column: str = "labels",
        pad_to_multiple_of: int | None = None,
        noise: float = NOISE,
        repeat: bool = True,
        start: StreamPosition | None = None,
        with_positions: bool = False,
    ):
        super().__init__()
        self.budget = Budget(max_source_tokens, max_target_tokens, pad_to_multiple_of)
        self.dataset, self.columns, self.buffer_size = dataset, (source_column, target_column), buffer_size
        self.num_replicas, self.rank, self.accumulation = num_replicas, rank, gradient_accumulation_steps
        self.seed, self.noise, self.repeat = seed, noise, repeat
        self.start, self.with_positions = start, with_positions

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        workers, mine = (worker.num_workers, worker.id) if worker else (1, 0)
        if workers > 1:  # workers share the number of the epoch, but reach the next one at different times
            self.dataset = copy.deepcopy(self.dataset)
        start = self.start or StreamPosition(self.epoch)
        batches = self._batches(start)
        of_this_process = islice(batches, self.rank, None, self.num_replicas)
        # A DataLoader takes one batch from each worker in turn.
        for batch, position in islice(of_this_process, mine, None, workers):
            yield (batch, position.to_json()) if self.with_positions else batch

    def _batches(self, start: StreamPosition) -> Iterator[tuple[list[dict], StreamPosition]]:
        """Yield the batches of all processes from `start` on, in order."""
        while True:
            for position, examples in self._blocks(replace(start, batch=0)):
                batches = self._cut(position, examples)
                for number in range(start.batch, len(batches)):
                    batch = [examples[index] for index in batches[number]]
                    yield batch, replace(position, batch=number)
                start = replace(start, batch=0)
            if not self.repeat:
                return
            start = StreamPosition(start.epoch + 1)

    def _blocks(self, start: StreamPosition) -> Iterator[tuple[StreamPosition, list[dict]]]:
        """Yield the blocks of an epoch from `start` on."""
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(start.epoch)
        stream, position = self._examples(start), start
        block = list(islice(stream, self.buffer_size))
        if not block and not start.block:
            raise ValueError(
                f"epoch {start.epoch} of the stream has no examples: it is empty, or cannot be read twice"
            )
        while block:
            examples = position.examples + len(block)
            following = replace(position, block=position.block + 1, examples=examples, rows=self._rows())
            next_block = list(islice(stream, self.buffer_size))
            if len(next_block) < self.buffer_size:
                block, next_block = block + next_block, []
            yield position, block
            block, position = next_block, following

    def _examples(self, start: StreamPosition) -> Iterator[dict]:
        if not hasattr(self.dataset, "state_dict"):
            return islice(iter(self.dataset), start.examples, None)
        if start.rows is not None:
            self.dataset.load_state_dict(start.rows)
        # Unlike iteration, `iter` does not share the examples out to the workers.
        return ({name: values[0] for name, values in row.items()} for row in self.dataset.iter(batch_size=1))

    def _rows(self) -> dict[str, Any] | None:
        return self.dataset.state_dict() if hasattr(self.dataset, "state_dict") else None

    def _cut(self, position: StreamPosition, examples: list[dict]) -> list[np.ndarray]:
        """Return the batches of a block as index arrays, in random order."""
        source, target = (self._lengths(column, examples, position.examples) for column in self.columns)
        self.budget.check(source, target, first=position.examples)
        rng = np.random.default_rng([self.seed, position.epoch, position.block])
        order = length_order(source, target, self.noise, rng)
        cuts = self.budget.cut(source[order], target[order])
        number = round_batches(len(cuts) - 1, len(examples), self.num_replicas, self.accumulation)
        return shuffled_batches(order, cuts, number, rng)

    def _lengths(self, column: str, examples: list[dict], first: int) -> np.ndarray:
        for index, example in enumerate(examples, start=first):
            if column not in example:
                raise ValueError(f"example {index} of the stream has no {column!r}, only {list(example)}")
        return self.budget.padded([len(example[column]) for example in examples])


class CollateWithPosition:
    """Collates a batch of `TokenBudgetIterable(with_positions=True)`, and adds its position to the batch."""

    def __init__(self, collate: Callable[[list[dict]], dict[str, Any]]):
        self.collate = collate

    def __call__(self, batch: tuple[list[dict], str]) -> dict[str, Any]:
        examples, position = batch
        return {**self.collate(examples), POSITION: position}
