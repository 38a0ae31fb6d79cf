"""Batches of about as many tokens, not of as many sentences (section 5.1): planned, streamed, padded.

A device batch is a rectangle of (sentences, longest sentence) on either side, and its cost is that area,
padding included. Source and target have a budget each. An update is a group of
`num_replicas * gradient_accumulation_steps` device batches that lie side by side in one global plan, so the
same sentences make the same update on any number of processes that give the same product.
"""

import math
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info
from transformers.trainer_pt_utils import BatchRebalanceSampler

# How far a length is blurred, relative to itself, before the sentences are sorted: it decides who meets whom
# in an epoch. 0.05 costs about 1% of padding; without it the same neighbours meet again and again.
NOISE = 0.05


def sequence_lengths(dataset, column, length_column=None):
    """Tokens in each row of `dataset[column]`: an int32 array (rows,).

    A `datasets.Dataset` is measured from its Arrow offsets, without reading a token; `length_column`, where
    the data set has it, is taken as it is; any other data set is walked through.
    """
    if not hasattr(dataset, "select_columns"):
        return np.fromiter((len(row[column]) for row in dataset), dtype=np.int32)

    import pyarrow
    import pyarrow.compute

    name = length_column if length_column in dataset.column_names else column
    if name not in dataset.column_names:
        raise ValueError(f"the data set has no column {name!r} to measure, only {dataset.column_names}")
    lengths = []
    for table in dataset.select_columns(name).with_format("arrow").iter(batch_size=50_000):
        values = table[name]
        if values.null_count:
            row = sum(map(len, lengths)) + values.is_null().index(True).as_py()
            raise ValueError(f"column {name!r} is empty (null) in row {row}")
        if name == column:
            kind = values.type
            if pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind):
                raise ValueError(f"column {name!r} holds text: a length counts tokens, so tokenize it first")
            values = pyarrow.compute.list_value_length(values)
        lengths.append(values.to_numpy().astype(np.int32))
    return np.concatenate(lengths) if lengths else np.zeros(0, dtype=np.int32)


def derive_accumulation(tokens_per_update, max_target_tokens, num_replicas):
    """Batches of at most `max_target_tokens` that each device adds up for `tokens_per_update` target tokens.

    Those of an update are a power of two, from 8 on a multiple of 8, so that 1, 2, 4 or 8 devices share the
    same batches and come to the same result. Where the devices do not divide that, they divide the update.
    """
    needed = math.ceil(tokens_per_update / max_target_tokens)
    shared = min(8, 1 << (needed - 1).bit_length())
    group = num_replicas if shared % num_replicas else shared
    return math.ceil(needed / group) * group // num_replicas


def length_order(source, target, noise, rng):
    """Indices that bring sentences of like length together on both sides.

    Sorted by the longer side, then by how the two sides differ, up and down in turn, so that neighbours
    stay alike where one length ends and the next begins. Lengths are blurred by up to `noise` of
    themselves; equal ones fall in random order.
    """
    source = source * (1 + noise * rng.random(len(source)))
    target = target * (1 + noise * rng.random(len(target)))
    longer = np.maximum(source, target).astype(np.int64)
    difference = source - target + 0.5 * rng.random(len(source))  # half a token breaks ties, and no more
    width = 2 * longer.max(initial=0) + 2  # a difference never reaches into the next length
    return np.argsort(longer * width + np.where(longer % 2, -difference, difference))


def cut_by_budget(source, target, max_source_tokens, max_target_tokens):
    """Cuts (batches + 1,) of a sequence of sentences: each batch takes as many as both budgets hold."""
    cuts = [0]
    while (start := cuts[-1]) < len(source):
        # No batch from here can hold more than if all its sentences were as short as the first.
        most = min(max_source_tokens // source[start], max_target_tokens // target[start])
        window = slice(start, start + most)
        count = np.arange(1, len(source[window]) + 1)
        fits = count * np.maximum.accumulate(source[window]) <= max_source_tokens
        fits &= count * np.maximum.accumulate(target[window]) <= max_target_tokens
        cuts.append(start + (len(fits) if fits.all() else int(fits.argmin())))
    return np.array(cuts)


def split_to(cuts, batches):
    """Halve the batches of most sentences until there are `batches` of them."""
    while (missing := batches - (len(cuts) - 1)) > 0:
        sizes = np.diff(cuts)
        largest = np.argsort(-sizes, kind="stable")[:missing]
        largest = largest[sizes[largest] > 1]
        if len(largest) == 0:
            raise ValueError(f"{cuts[-1]} sentences cannot be split into {batches} batches")
        cuts = np.sort(np.concatenate([cuts, cuts[largest] + sizes[largest] // 2]))
    return cuts


def round_batches(needed, sentences, num_replicas, accumulation):
    """`needed` batches rounded up to whole updates; if sentences run out, to an equal share per process."""
    update = num_replicas * accumulation
    whole_updates = -(-needed // update) * update
    return whole_updates if whole_updates <= sentences else -(-sentences // num_replicas) * num_replicas


def shuffled_batches(order, cuts, number, rng):
    """`number` index arrays in random order, from the sorted sentences and where their budget cuts them."""
    batches = np.split(order, split_to(cuts, min(number, len(order)))[1:-1])
    return [batches[place % len(batches)] for place in rng.permutation(number)]


class Budget:
    """The most tokens, padding included, that a device batch may hold on either side; None sets no limit."""

    def __init__(self, max_source_tokens=None, max_target_tokens=None, pad_to_multiple_of=None):
        if max_source_tokens is None and max_target_tokens is None:
            raise ValueError("token batches need max_source_tokens, max_target_tokens or both")
        self.limits = {"source": max_source_tokens, "target": max_target_tokens}
        self.multiple = pad_to_multiple_of or 1

    def padded(self, lengths):
        """Lengths as the collator makes them: at least 1, rounded up to the multiple. int64 (sentences,)."""
        lengths = np.maximum(np.asarray(lengths, dtype=np.int64), 1)
        return -(-lengths // self.multiple) * self.multiple

    def check(self, source, target, first=0):
        """Refuse sentences that do not fit an empty batch; `first` is the index of the first one here."""
        for side, lengths in (("source", source), ("target", target)):
            limit = self.limits[side]
            too_long = np.flatnonzero(lengths > limit) if limit is not None else ()
            if len(too_long):
                index = too_long[0]
                also = f" (and {len(too_long) - 1} more like it)" if len(too_long) > 1 else ""
                raise ValueError(
                    f"example {first + index}, of {source[index]} source and {target[index]} target tokens, "
                    f"does not fit a batch of max_{side}_tokens={limit}{also}: raise max_{side}_tokens to "
                    f"{lengths.max()} or more (and tokens_per_update, where a device's share of it is less), "
                    "or leave out or shorten what is longer"
                )

    def cut(self, source, target):
        whole = int(max(source.sum(), target.sum())) * max(len(source), 1)  # "no limit" as a number
        limits = [whole if limit is None else limit for limit in self.limits.values()]
        return cut_by_budget(source, target, *limits)


class TokenBudgetSampler(BatchRebalanceSampler):
    """Batches of indices for one process, bucketed by length and shuffled anew in every epoch.

    `source_lengths` and `target_lengths` are arrays (sentences,); without the latter (language modelling)
    only one side counts. Every sentence comes once per epoch, on one process; every process gets
    `len(self)` batches, the same number in every epoch, which is what the Trainer reckons with. For that
    the plan has a fixed number of device batches, a multiple of those in an update: where the budget alone
    gives fewer, the batches of most sentences are halved. (With fewer sentences than that, each is a batch,
    the last update is smaller, and a few sentences are repeated where the processes would not come out
    even.) An epoch is a function of the lengths, the budgets, the seed and its number, so `set_epoch` and
    skipping batches resume it exactly.

    It is a `BatchRebalanceSampler` because the Trainer hands those to accelerate without having their
    batches dealt out, or dropped, a second time.
    """

    def __init__(
        self,
        source_lengths,
        target_lengths=None,
        max_source_tokens=None,
        max_target_tokens=None,
        num_replicas=1,
        rank=0,
        gradient_accumulation_steps=1,
        seed=0,
        pad_to_multiple_of=None,
        noise=NOISE,
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
        # Sorted exactly, every epoch needs the same number; with noise, one in a hundred more or fewer.
        sorted_exactly, blurred = (len(self._cut(0, noise)[1]) - 1 for noise in (0, self.noise))
        needed = max(sorted_exactly, int(1.01 * blurred))
        self.num_batches = round_batches(needed, len(self.source), num_replicas, gradient_accumulation_steps)

    def _cut(self, epoch, noise):
        rng = np.random.default_rng([self.seed, epoch])
        order = length_order(self.source, self.target, noise, rng)
        return order, self.budget.cut(self.source[order], self.target[order]), rng

    def plan(self, epoch):
        """The epoch's device batches over all processes, in order: a list of index arrays."""
        for noise in (self.noise, self.noise / 4, 0):  # less, if chance made too many batches
            order, cuts, rng = self._cut(epoch, noise)
            if len(cuts) - 1 <= self.num_batches:
                break
        return shuffled_batches(order, cuts, self.num_batches, rng)

    def __iter__(self):
        # Batch number (update * accumulation + step) * processes + rank.
        for batch in self.plan(self.epoch)[self.rank :: self.dp_size]:
            yield batch.tolist()

    def __len__(self):
        return self.num_batches // self.dp_size


def padding_report(sampler):
    """What the first epoch's batches are made of: counts, real tokens, and the share that is padding."""
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


class TokenBudgetIterable(IterableDataset):
    """Batches (lists of examples) by token budget from a stream that is too large to be measured beforehand.

    Use it as `DataLoader(stream, batch_size=None, collate_fn=collator)`. About two buffers of `buffer_size`
    examples are held; they are sorted by length and cut into batches, half of which, drawn at random, go
    out while the other half waits for the next buffer. The stream starts over when it ends, with the next
    epoch's number (a `datasets.IterableDataset` reshuffles by it), so the Trainer needs `max_steps` and
    sees one endless epoch: skipping batches then resumes exactly. With `repeat=False` it ends after one.

    Every process reads the whole stream and keeps its share of the batches, so that neither the batches nor
    the updates depend on the number of processes; for the same reason at most one DataLoader worker reads
    it.
    """

    def __init__(
        self,
        dataset,
        max_source_tokens=None,
        max_target_tokens=None,
        num_replicas=1,
        rank=0,
        gradient_accumulation_steps=1,
        seed=0,
        buffer_size=16_384,
        source_column="input_ids",
        target_column="labels",
        pad_to_multiple_of=None,
        noise=NOISE,
        repeat=True,
    ):
        self.budget = Budget(max_source_tokens, max_target_tokens, pad_to_multiple_of)
        self.dataset, self.columns, self.buffer_size = dataset, (source_column, target_column), buffer_size
        self.num_replicas, self.rank, self.accumulation = num_replicas, rank, gradient_accumulation_steps
        self.seed, self.noise, self.repeat = seed, noise, repeat
        self.epoch = torch.tensor(0).share_memory_()  # seen by a worker that lives on between epochs

    def set_epoch(self, epoch):
        self.epoch.fill_(epoch)

    def __iter__(self):
        worker = get_worker_info()
        if worker is not None and worker.num_workers > 1:
            raise ValueError(
                f"dataloader_num_workers={worker.num_workers}: a stream is cut into token batches by one "
                "worker at most, set it to 0 or 1"
            )
        for epoch in count(int(self.epoch)):
            batches = self._epoch(epoch)
            yield from islice(batches, self.rank, None, self.num_replicas)
            if not self.repeat:
                return

    def _epoch(self, epoch):
        """The batches of all processes, in order."""
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)
        rng = np.random.default_rng([self.seed, epoch])
        pool, full = [], 2 * self.buffer_size
        for index, example in enumerate(self.dataset):
            pool.append((example, *self._lengths(index, example)))
            if len(pool) >= full:
                batches, pool = self._release(pool, rng)
                yield from batches
                full = len(pool) + self.buffer_size
        if not pool:
            raise ValueError(
                f"no example in epoch {epoch} of the stream: it is empty, or a generator, which ends for good"
            )
        yield from self._release(pool, rng, last=True)[0]

    def _lengths(self, index, example):
        try:
            lengths = [self.budget.padded([len(example[column])]) for column in self.columns]
        except KeyError as error:
            raise ValueError(f"example {index} of the stream has no {error}, only {list(example)}") from None
        self.budget.check(*lengths, first=index)
        return int(lengths[0][0]), int(lengths[1][0])

    def _release(self, pool, rng, last=False):
        """Batches to go out, whole updates of them, and what stays in the pool."""
        source, target = (np.array([entry[side] for entry in pool]) for side in (1, 2))
        order = length_order(source, target, self.noise, rng)
        cuts = self.budget.cut(source[order], target[order])
        number = len(cuts) - 1
        if last:
            number = leaving = round_batches(number, len(pool), self.num_replicas, self.accumulation)
        else:
            update = self.num_replicas * self.accumulation
            leaving = number // update // 2 * update
        batches = shuffled_batches(order, cuts, number, rng)
        going = [[pool[index][0] for index in batch] for batch in batches[:leaving]]
        return going, [pool[index] for batch in batches[leaving:] for index in batch]


@dataclass
class Seq2SeqCollator:
    """Examples (dicts of id lists) to a batch of tensors (examples, longest), padded on the right.

    Input ids are padded with `pad_token_id`, labels with -100, which the loss leaves out. The attention
    mask is made where the examples have none. Other columns are left behind.
    """

    pad_token_id: int
    pad_to_multiple_of: int | None = None

    def __call__(self, examples):
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

    def pad(self, rows, filler):
        lengths = np.array([len(row) for row in rows])
        multiple = self.pad_to_multiple_of or 1
        padded = np.full((len(rows), -(-lengths.max() // multiple) * multiple), filler, dtype=np.int64)
        padded[np.arange(padded.shape[1]) < lengths[:, None]] = np.concatenate(rows)
        return torch.from_numpy(padded)
