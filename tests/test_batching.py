"""Token-budget batches: what every plan must keep, whatever the lengths, the processes and the epoch."""

from collections import Counter
from itertools import islice

import datasets
import numpy as np
import pytest
import torch
from accelerate import skip_first_batches
from accelerate.data_loader import DataLoaderShard
from torch.utils.data import DataLoader

from vanilla_transformer.training.batching import (
    Seq2SeqCollator,
    TokenBudgetSampler,
    derive_accumulation,
    padding_report,
    sequence_lengths,
)
from vanilla_transformer.training.streaming import TokenBudgetIterable


def corpus(sentences, seed=0, mean=14):
    """Lengths of pairs as translations have them: skewed, source and target alike."""
    rng = np.random.default_rng(seed)
    source = np.clip(rng.lognormal(np.log(mean), 0.35, sentences), 2, 4 * mean).astype(int)
    target = np.clip(np.rint(source * rng.normal(1.05, 0.18, sentences)), 2, 4 * mean).astype(int)
    return source, target


def area(batch, lengths):
    return len(batch) * max(lengths[index] for index in batch)


SETTINGS = [
    {"max_source_tokens": 400, "max_target_tokens": 400},
    {"max_source_tokens": 1000, "max_target_tokens": 300},
    {"max_target_tokens": 500},
    {"max_source_tokens": 70},  # few sentences fit a batch
    {"max_target_tokens": 100_000, "gradient_accumulation_steps": 4},  # all would fit one
    {"max_source_tokens": 400, "max_target_tokens": 400, "pad_to_multiple_of": 8},
]


@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_budget_holds_and_each_sentence_comes_once(settings, processes):
    source, target = corpus(1501)
    ranks = [
        TokenBudgetSampler(source, target, num_replicas=processes, rank=rank, **settings)
        for rank in range(processes)
    ]
    multiple = settings.get("pad_to_multiple_of", 1)
    seen, numbers = Counter(), set()
    for epoch in range(3):
        for sampler in ranks:
            sampler.set_epoch(epoch)
            batches = list(sampler)
            numbers |= {len(batches), len(sampler)}
            seen.update(index for batch in batches for index in batch)
            for batch in batches:
                for lengths, key in ((source, "max_source_tokens"), (target, "max_target_tokens")):
                    assert area(batch, -(-lengths // multiple) * multiple) <= settings.get(key, np.inf)
    assert seen == dict.fromkeys(range(1501), 3)
    (number,) = numbers  # the same on every process and in every epoch, in whole updates
    assert number % settings.get("gradient_accumulation_steps", 1) == 0


def test_epochs_differ_and_repeat():
    lengths = corpus(2000)
    first, second = (TokenBudgetSampler(*lengths, 400, 400, seed=7) for _ in range(2))
    epochs = []
    for epoch in range(3):
        first.set_epoch(epoch)
        epochs.append(list(first))
    second.set_epoch(2)
    assert list(second) == epochs[2] == list(second)  # a function of (seed, epoch), not of what came before
    assert list(TokenBudgetSampler(*lengths, 400, 400, seed=8)) != epochs[0]
    together = [{frozenset(batch) for batch in batches} for batches in epochs]
    assert len(together[0] & together[1]) < 0.1 * len(together[0])  # not only the order of batches changes
    short_first = np.corrcoef(np.arange(len(epochs[0])), [lengths[0][batch[0]] for batch in epochs[0]])[0, 1]
    assert abs(short_first) < 0.3


def updates(processes, accumulation, **settings):
    """The sentences of each update, over all processes."""
    ranks = [
        list(
            TokenBudgetSampler(
                *corpus(1000), 300, 300, processes, rank, gradient_accumulation_steps=accumulation, **settings
            )
        )
        for rank in range(processes)
    ]
    steps = [sorted(sum((rank[step] for rank in ranks), [])) for step in range(len(ranks[0]))]
    return [sorted(sum(steps[at : at + accumulation], [])) for at in range(0, len(steps), accumulation)]


def test_updates_do_not_depend_on_the_number_of_processes():
    assert updates(1, 4) == updates(2, 2) == updates(4, 1)
    assert updates(1, 6) == updates(3, 2)


@pytest.mark.parametrize("mean, budget, bound", [(14, 1024, 0.025), (14, 4096, 0.05), (40, 4096, 0.055)])
def test_little_padding(mean, budget, bound):
    report = padding_report(TokenBudgetSampler(*corpus(29_000, mean=mean), budget, budget))
    assert report["examples"] == 29_000
    assert 0 < report["padding"] < bound
    assert report["source_padding"] < 2 * bound and report["target_padding"] < 2 * bound


def test_padding_report_counts_what_the_collator_makes():
    source, target = corpus(500)
    sampler = TokenBudgetSampler(source, target, 300, 300, pad_to_multiple_of=4)
    collate = Seq2SeqCollator(pad_token_id=1, pad_to_multiple_of=4)
    made = [
        collate([{"input_ids": [5] * source[index], "labels": [6] * target[index]} for index in batch])
        for batch in sampler
    ]
    report = padding_report(sampler)
    assert report["batches"] == len(made)
    real = sum(int(batch["attention_mask"].sum()) for batch in made)
    assert report["source_tokens"] == real
    assert report["source_padding"] == pytest.approx(
        1 - real / sum(batch["input_ids"].numel() for batch in made)
    )
    real = sum(int((batch["labels"] != -100).sum()) for batch in made)
    assert report["target_padding"] == pytest.approx(
        1 - real / sum(batch["labels"].numel() for batch in made)
    )


@pytest.mark.parametrize(
    "sentences, processes, accumulation", [(5, 1, 8), (5, 2, 4), (2, 4, 1), (1, 1, 1), (7, 3, 1)]
)
def test_fewer_sentences_than_batches_wanted(sentences, processes, accumulation):
    lengths = np.full(sentences, 9)
    ranks = [
        list(TokenBudgetSampler(lengths, lengths, 10, 10, processes, rank, accumulation))
        for rank in range(processes)
    ]
    assert len({len(batches) for batches in ranks}) == 1
    seen = Counter(index for batches in ranks for batch in batches for index in batch)
    assert set(seen) == set(range(sentences))
    assert seen.total() < sentences + processes  # at most what evens the processes out


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("skip", [0, 2, 6])
def test_skipping_resumes_mid_epoch(skip, accumulation):
    source, target = corpus(600)
    data = [{"input_ids": [index] * source[index], "labels": [index] * target[index]} for index in range(600)]

    def loader():
        sampler = TokenBudgetSampler(source, target, 300, 300, gradient_accumulation_steps=accumulation)
        return DataLoaderShard(data, batch_sampler=sampler, collate_fn=Seq2SeqCollator(0))

    whole = loader()
    whole.set_epoch(3)
    resumed = skip_first_batches(loader(), skip)
    resumed.set_epoch(3)
    resumed.batch_sampler.batch_sampler.set_epoch(3)  # as the Trainer does
    for expected, got in zip(islice(whole, skip, None), resumed, strict=True):
        assert torch.equal(expected["input_ids"], got["input_ids"])


def test_language_modelling_counts_one_side():
    source, _ = corpus(500)
    sampler = TokenBudgetSampler(source, max_source_tokens=300)
    assert all(area(batch, source) <= 300 for batch in sampler)
    assert sorted(sum(sampler, [])) == list(range(500))


def test_sentence_past_the_budget_is_named():
    source, target = corpus(100)
    target[41] = 700
    with pytest.raises(ValueError, match=r"example 41, of \d+ source and 700 target.*max_target_tokens=600"):
        TokenBudgetSampler(source, target, 600, 600)
    stream = [{"input_ids": [1] * s, "labels": [1] * t} for s, t in zip(source, target)]
    with pytest.raises(ValueError, match=r"example 41, .*max_target_tokens=600"):
        next(iter(TokenBudgetIterable(stream, 600, 600)))


@pytest.mark.parametrize("arguments", [([3, 4], [3]), ([], []), ([3], [3], None, None)])
def test_invalid_arguments_raise(arguments):
    with pytest.raises(ValueError):
        TokenBudgetSampler(*arguments) if len(arguments) == 4 else TokenBudgetSampler(*arguments, 10, 10)


@pytest.mark.parametrize(
    "tokens, budget", [(25_000, 4096), (400_000, 5000), (4096, 4096), (25_000, 1000), (9, 4)]
)
@pytest.mark.parametrize("devices", [1, 2, 3, 4, 8, 16])
def test_accumulation_makes_the_same_update_on_1_2_4_8_devices(tokens, budget, devices):
    batches = devices * derive_accumulation(tokens, budget, devices)
    assert tokens / batches <= budget
    alone = derive_accumulation(tokens, budget, 1)
    if alone % devices == 0:
        assert batches == alone
    else:
        assert batches - devices < tokens / budget  # no more than the devices ask for
    assert alone < 2 * tokens / budget and alone % min(8, alone) == 0


# Lengths


@pytest.mark.parametrize(
    "make", [lambda data: data, lambda data: data.shuffle(seed=1), lambda data: data.select([5, 2, 2])]
)
def test_lengths_of_a_dataset(make):
    source, target = corpus(300)
    data = make(
        datasets.Dataset.from_dict(
            {"input_ids": [[1] * n for n in source], "labels": [[2] * n for n in target]}
        )
    )
    for column in ("input_ids", "labels"):
        lengths = sequence_lengths(data, column)
        assert lengths.dtype == np.int32
        assert (
            lengths.tolist()
            == [len(row) for row in data[column]]
            == sequence_lengths(list(data), column).tolist()
        )


def test_lengths_errors_name_the_column():
    data = datasets.Dataset.from_dict(
        {"text": ["a b"], "ids": [None]},
        features=datasets.Features(
            {"text": datasets.Value("string"), "ids": datasets.List(datasets.Value("int64"))}
        ),
    )
    with pytest.raises(ValueError, match="'labels'"):
        sequence_lengths(data, "labels")
    with pytest.raises(ValueError, match="'text' holds text"):
        sequence_lengths(data, "text")
    with pytest.raises(ValueError, match="'ids' is empty .* row 0"):
        sequence_lengths(data, "ids")


# Streams


class Stream:
    """As a `datasets.IterableDataset`: in another order each epoch."""

    def __init__(self, sentences):
        self.lengths, self.epoch = list(zip(*corpus(sentences))), 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        for index in np.random.default_rng(self.epoch).permutation(len(self.lengths)):
            source, target = self.lengths[index]
            yield {"id": int(index), "input_ids": [1] * source, "labels": [2] * target}


def ids(batches):
    return [[example["id"] for example in batch] for batch in batches]


def stream(rank=0, processes=1, accumulation=1, sentences=900, **settings):
    settings = {"buffer_size": 150, "repeat": False} | settings
    return TokenBudgetIterable(Stream(sentences), 300, 300, processes, rank, accumulation, **settings)


@pytest.mark.parametrize("sentences", [900, 777, 523, 301, 299, 7])
@pytest.mark.parametrize("processes, accumulation", [(1, 1), (1, 4), (2, 2)])
def test_stream_keeps_the_budget_and_loses_nothing(sentences, processes, accumulation):
    ranks = [list(stream(rank, processes, accumulation, sentences)) for rank in range(processes)]
    assert len({len(batches) for batches in ranks}) == 1
    assert len(ranks[0]) % accumulation == 0 or sentences == 7
    batches = [batch for rank in ranks for batch in rank]
    assert sorted(sum(ids(batches), [])) == list(range(sentences)) or sentences == 7
    assert set(sum(ids(batches), [])) == set(range(sentences))
    for batch in batches:
        for column in ("input_ids", "labels"):
            assert area(range(len(batch)), [len(example[column]) for example in batch]) <= 300


def test_stream_is_the_same_for_any_number_of_processes_and_workers(monkeypatch):
    alone = ids(stream(0, 1, 4))
    pair = [ids(stream(rank, 2, 2)) for rank in range(2)]
    assert alone == [batch for step in zip(*pair) for batch in step]
    for workers in (1, 2, 3):
        loader = DataLoader(stream(0, 1, 4), batch_size=None, num_workers=workers, collate_fn=list)
        assert alone == ids(loader)


def test_stream_starts_over_in_another_order():
    once, again, other = stream(), stream(), stream()
    other.set_epoch(1)
    assert ids(once) == ids(again) != ids(other)
    number = len(list(once))
    endless = ids(islice(stream(repeat=True), number + len(list(other))))
    assert endless == ids(once) + ids(other)


def test_stream_pads_little_with_a_large_buffer():
    batches = list(stream(sentences=6000, buffer_size=3000))
    real = sum(len(example["input_ids"]) for batch in batches for example in batch)
    padded = sum(len(batch) * max(len(example["input_ids"]) for example in batch) for batch in batches)
    assert 1 - real / padded < 0.1


def test_stream_that_ends_for_good_is_an_error():
    examples = ({"input_ids": [1], "labels": [2]} for _ in range(3))
    endless = iter(TokenBudgetIterable(examples, 10, 10))
    next(endless)
    with pytest.raises(ValueError, match="cannot be read twice"):
        next(endless)
    with pytest.raises(ValueError, match="'labels'"):
        next(iter(TokenBudgetIterable([{"input_ids": [1]}], 10, 10)))


# Collator


def test_collator_pads_on_the_right():
    examples = [
        {"input_ids": [5, 6, 7], "labels": [8], "text": "a"},
        {"input_ids": [5], "labels": [8, 9], "text": "b"},
    ]
    batch = Seq2SeqCollator(pad_token_id=1)(examples)
    assert {name: value.tolist() for name, value in batch.items()} == {
        "input_ids": [[5, 6, 7], [5, 1, 1]],
        "attention_mask": [[1, 1, 1], [1, 0, 0]],
        "labels": [[8, -100], [8, 9]],
    }
    assert all(value.dtype == torch.int64 for value in batch.values())


def test_collator_takes_masks_tensors_and_multiples():
    examples = [
        {"input_ids": torch.tensor([5, 6, 7]), "attention_mask": [1, 0, 1]},
        {"input_ids": np.array([5]), "attention_mask": [1]},
    ]
    batch = Seq2SeqCollator(pad_token_id=0, pad_to_multiple_of=4)(examples)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 0], [5, 0, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 0, 1, 0], [1, 0, 0, 0]]
    assert "labels" not in batch


def test_stream_is_shuffled_anew_in_every_epoch_even_if_its_source_is_not():
    rows = [{"id": row, "input_ids": [5] * (1 + row % 7), "labels": [5]} for row in range(90)]
    streams = [TokenBudgetIterable(rows, 40, 40, buffer_size=30, repeat=False) for _ in range(3)]
    streams[2].set_epoch(1)
    first, again, second = map(ids, streams)
    assert first == again != second
    assert sorted(sum(first, [])) == sorted(sum(second, [])) == list(range(90))


def test_stream_passes_the_epoch_to_its_source():
    class Source(list):
        epochs: list[int] = []

        def set_epoch(self, epoch: int) -> None:
            self.epochs.append(epoch)

    source = Source([{"input_ids": [5], "labels": [5]}] * 4)
    batches = list(islice(TokenBudgetIterable(source, 10, 10), 9))
    assert len(batches) == 9 and source.epochs[:3] == [0, 1, 2]
