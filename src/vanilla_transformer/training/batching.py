"""Batches with about the same number of tokens, not of sentences (section 5.1): planned and padded.

A device batch is a rectangle of (sentences, longest sentence) on either side. Its cost is that area, padding
included. Source and target have a budget each. An update is a group of
`num_replicas * gradient_accumulation_steps` neighbouring device batches in one global plan. So the same
sentences make the same update on any number of processes with the same product.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers.trainer_pt_utils import BatchRebalanceSampler

# Relative noise on the lengths before sorting, so that a sentence gets other neighbours in every epoch. 0.05
# costs about 1% of padding.
NOISE = 0.05


def sequence_lengths(dataset: Any, column: str) -> np.ndarray:
    """Return the number of tokens in each row of `dataset[column]`: an int32 array (rows,).

    It measures a `datasets.Dataset` by its Arrow offsets, without reading tokens, and iterates over any other
    data set.

    Raises:
        ValueError: the column is missing, has an empty row, or holds text.
    """
    if not hasattr(dataset, "select_columns"):
        return np.fromiter((len(row[column]) for row in dataset), dtype=np.int32)

    import pyarrow
    import pyarrow.compute

    if column not in dataset.column_names:
        raise ValueError(f"the data set has no column {column!r}, only {dataset.column_names}")
    lengths: list[np.ndarray] = []
    for table in dataset.select_columns(column).with_format("arrow").iter(batch_size=50_000):
        values = table[column]
        if values.null_count:
            row = sum(len(part) for part in lengths) + values.is_null().index(True).as_py()
            raise ValueError(f"column {column!r} is empty (null) in row {row}")
        if pyarrow.types.is_string(values.type) or pyarrow.types.is_large_string(values.type):
            raise ValueError(f"column {column!r} holds text: a length counts tokens, so tokenize it first")
        lengths.append(pyarrow.compute.list_value_length(values).to_numpy().astype(np.int32))
    return np.concatenate(lengths) if lengths else np.zeros(0, dtype=np.int32)


def derive_accumulation(tokens_per_update: int, max_target_tokens: int, num_replicas: int) -> int:
    """Return the batches of `max_target_tokens` that each device accumulates for `tokens_per_update`.

    The batches of an update are a power of two, or a multiple of 8 from 8 on. So 1, 2, 4 or 8 devices share
    the same batches and get the same result. Another number of devices rounds up to its own multiple.
    """
    needed = math.ceil(tokens_per_update / max_target_tokens)
    shared = min(8, 1 << (needed - 1).bit_length())
    group = num_replicas if shared % num_replicas else shared
    return math.ceil(needed / group) * group // num_replicas


def length_order(
    source: np.ndarray, target: np.ndarray, noise: float, rng: np.random.Generator
) -> np.ndarray:
    """Return indices that sort sentences so that neighbours have similar lengths on both sides.

    The first key is the longer side. The second is the difference of the sides, ascending and descending in
    turn, so neighbours stay similar from one length to the next. `noise` changes each length by up to that
    share. Equal keys are in random order.
    """
    source = source * (1 + noise * rng.random(len(source)))
    target = target * (1 + noise * rng.random(len(target)))
    longer = np.maximum(source, target).astype(np.int64)
    difference = source - target + 0.5 * rng.random(len(source))  # half a token only breaks ties
    width = 2 * longer.max(initial=0) + 2  # more than any difference
    return np.argsort(longer * width + np.where(longer % 2, -difference, difference))


def cut_by_budget(
    source: np.ndarray, target: np.ndarray, max_source_tokens: int, max_target_tokens: int
) -> np.ndarray:
    """Return where to cut a sequence of sentences, (batches + 1,), so that each batch fills a budget."""
    cuts = [0]
    while (start := cuts[-1]) < len(source):
        # A batch holds the most sentences if all are as short as the first.
        most = min(max_source_tokens // source[start], max_target_tokens // target[start])
        window = slice(start, start + most)
        count = np.arange(1, len(source[window]) + 1)
        fits = count * np.maximum.accumulate(source[window]) <= max_source_tokens
        fits &= count * np.maximum.accumulate(target[window]) <= max_target_tokens
        cuts.append(start + (len(fits) if fits.all() else int(fits.argmin())))
    return np.array(cuts)


def split_to(cuts: np.ndarray, batches: int) -> np.ndarray:
    """Halve the batches with the most sentences until there are `batches` of them."""
    while (missing := batches - (len(cuts) - 1)) > 0:
        sizes = np.diff(cuts)
        largest = np.argsort(-sizes, kind="stable")[:missing]
        largest = largest[sizes[largest] > 1]
        if len(largest) == 0:
            raise ValueError(f"{cuts[-1]} sentences cannot be split into {batches} batches")
        cuts = np.sort(np.concatenate([cuts, cuts[largest] + sizes[largest] // 2]))
    return cuts


def round_batches(needed: int, sentences: int, num_replicas: int, accumulation: int) -> int:
    """Round `needed` up to whole updates or, with too few sentences, to an equal share per process."""
    update = num_replicas * accumulation
    whole_updates = -(-needed // update) * update
    return whole_updates if whole_updates <= sentences else -(-sentences // num_replicas) * num_replicas


def shuffled_batches(
    order: np.ndarray, cuts: np.ndarray, number: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Return `number` index arrays in random order, from sorted sentences and the cuts of their budget."""
    batches = np.split(order, split_to(cuts, min(number, len(order)))[1:-1])
    return [batches[index % len(batches)] for index in rng.permutation(number)]


class Budget:
    """The largest number of tokens on either side of a device batch, padding included; None is no limit."""

    def __init__(
        self,
        max_source_tokens: int | None = None,
        max_target_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
    ):
        if max_source_tokens is None and max_target_tokens is None:
            raise ValueError("token batches need max_source_tokens, max_target_tokens or both")
        self.limits = {"source": max_source_tokens, "target": max_target_tokens}
        self.multiple = pad_to_multiple_of or 1

    def padded(self, lengths: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the lengths after the collator's padding, at least 1: int64 (sentences,)."""
        lengths = np.maximum(np.asarray(lengths, dtype=np.int64), 1)
        return -(-lengths // self.multiple) * self.multiple

    def check(self, source: np.ndarray, target: np.ndarray, first: int = 0) -> None:
        """Raise ValueError if a sentence does not fit in an empty batch; `first` is the first one's index."""
        for side, lengths in (("source", source), ("target", target)):
            limit = self.limits[side]
            if limit is None:
                continue
            too_long = np.flatnonzero(lengths > limit)
            if len(too_long):
                index = too_long[0]
                also = f" (and {len(too_long) - 1} more like it)" if len(too_long) > 1 else ""
                raise ValueError(
                    f"example {first + index}, of {source[index]} source and {target[index]} target tokens, "
                    f"does not fit in a batch of max_{side}_tokens={limit}{also}: raise max_{side}_tokens to "
                    f"{lengths.max()} or more (and tokens_per_update, if a device's share of it is smaller), "
                    "or remove or shorten longer examples"
                )

    def cut(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        whole = int(max(source.sum(), target.sum())) * max(len(source), 1)  # "no limit" as a number
        limits = [whole if limit is None else limit for limit in self.limits.values()]
        return cut_by_budget(source, target, *limits)


class TokenBudgetSampler(BatchRebalanceSampler):
    """Batches of indices for one process, bucketed by length and shuffled in every epoch.

    Every sentence comes once per epoch, on one process. Every process gets `len(self)` batches in every
    epoch, as the Trainer assumes. So the plan has a fixed number of device batches, a multiple of those in an
    update: if the budget alone gives fewer, the batches with the most sentences are halved. (With fewer
    sentences than that, each is a batch, the last update is smaller, and a few sentences repeat so that all
    processes get the same number.) An epoch is a function of the lengths, the budgets, the seed and its
    number, so
    `set_epoch` and skipped batches resume it exactly.

    It is a `BatchRebalanceSampler` because the Trainer does not let accelerate distribute, or drop, the
    batches of those a second time.

    Args:
        source_lengths, target_lengths: arrays (sentences,). Without the second (language modelling) only one
            side counts.

    Example:
        >>> sampler = TokenBudgetSampler(np.array([3, 9, 4, 8]), max_target_tokens=18)
        >>> sorted(sorted(batch) for batch in sampler)  # neighbours have similar lengths
        [[0, 2], [1, 3]]
    """

    def __init__(
        self,
        source_lengths: np.ndarray,
        target_lengths: np.ndarray | None = None,
        max_source_tokens: int | None = None,
        max_target_tokens: int | None = None,
        num_replicas: int = 1,
        rank: int = 0,
        gradient_accumulation_steps: int = 1,
        seed: int = 0,
        pad_to_multiple_of: int | None = None,
        noise: float = NOISE,
    ):
        target_lengths = source_lengths if target_lengths is None else target_lengths
        if len(source_lengths) != len(target_lengths):
            raise ValueError(f"{len(source_lengths)} source lengths but {len(target_lengths)} target lengths")
        if len(source_lengths) == 0:
            raise ValueError("no examples to make batches of: the training set is empty")
        self.budget = Budget(max_source_tokens, max_target_tokens, pad_to_multiple_of)
        self.tokens = {"source": int(np.sum(source_lengths)), "target": int(np.sum(target_lengths))}
        self.source, self.target = self.budget.padded(source_lengths), self.budget.padded(target_lengths)
        self.budget.check(self.source, self.target)
        self.dp_size, self.rank, self.grad_accum = num_replicas, rank, gradient_accumulation_steps
        self.seed, self.noise, self.epoch = seed, noise, 0
        self.drop_last = False
        # Sorted exactly, every epoch needs the same number of batches; with noise, 1% more or fewer.
        sorted_exactly, with_noise = (len(self._cut(0, noise)[1]) - 1 for noise in (0, self.noise))
        needed = max(sorted_exactly, int(1.01 * with_noise))
        self.num_batches = round_batches(needed, len(self.source), num_replicas, gradient_accumulation_steps)

    def _cut(self, epoch: int, noise: float) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
        rng = np.random.default_rng([self.seed, epoch])
        order = length_order(self.source, self.target, noise, rng)
        return order, self.budget.cut(self.source[order], self.target[order]), rng

    def plan(self, epoch: int) -> list[np.ndarray]:
        """Return the epoch's device batches of all processes, in order, as index arrays."""
        for noise in (self.noise, self.noise / 4, 0):  # less noise if it made too many batches
            order, cuts, rng = self._cut(epoch, noise)
            if len(cuts) - 1 <= self.num_batches:
                break
        return shuffled_batches(order, cuts, self.num_batches, rng)

    def __iter__(self) -> Iterator[list[int]]:
        # Batch number (update * accumulation + step) * processes + rank.
        for batch in self.plan(self.epoch)[self.rank :: self.dp_size]:
            yield batch.tolist()

    def __len__(self) -> int:
        return self.num_batches // self.dp_size


def padding_report(sampler: TokenBudgetSampler) -> dict[str, Any]:
    """Return the counts, real tokens and share of padding of the first epoch's batches."""
    batches = sampler.plan(0)
    area = {
        side: sum(len(batch) * int(lengths[batch].max()) for batch in batches)
        for side, lengths in (("source", sampler.source), ("target", sampler.target))
    }
    return {
        "examples": len(sampler.source),
        "batches": len(batches),
        "source_tokens": sampler.tokens["source"],
        "target_tokens": sampler.tokens["target"],
        "source_padding": 1 - sampler.tokens["source"] / area["source"],
        "target_padding": 1 - sampler.tokens["target"] / area["target"],
        "padding": 1 - sum(sampler.tokens.values()) / sum(area.values()),
    }


@dataclass
class Seq2SeqCollator:
    """Turns examples (dicts of id lists) into a batch of tensors (examples, longest), padded on the right.

    It pads input ids with `pad_token_id`, and labels with -100, which the loss ignores. It adds an attention
    mask if the examples have none. It drops other columns.

    Example:
        >>> collator = Seq2SeqCollator(pad_token_id=1)
        >>> collator([{"input_ids": [5, 6, 2]}, {"input_ids": [7, 2]}])["input_ids"].tolist()
        [[5, 6, 2], [7, 2, 1]]
    """

    pad_token_id: int
    pad_to_multiple_of: int | None = None

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        fillers = {
            "input_ids": self.pad_token_id,
            "attention_mask": 0,
            "token_type_ids": 0,
            "decoder_input_ids": self.pad_token_id,
            "decoder_attention_mask": 0,
            "labels": -100,
        }
        batch = {
            column: self.pad([example[column] for example in examples], filler)
            for column, filler in fillers.items()
            if examples[0].get(column) is not None
        }
        if "input_ids" in batch and "attention_mask" not in batch:
            ones = [np.ones(len(example["input_ids"])) for example in examples]
            batch["attention_mask"] = self.pad(ones, 0)
        return batch

    def pad(self, rows: Sequence[Any], filler: int) -> torch.Tensor:
        lengths = np.array([len(row) for row in rows])
        multiple = self.pad_to_multiple_of or 1
        padded = np.full((len(rows), -(-lengths.max() // multiple) * multiple), filler, dtype=np.int64)
        padded[np.arange(padded.shape[1]) < lengths[:, None]] = np.concatenate(rows)
        return torch.from_numpy(padded)
