"""A stream resumes exactly at its position, with any number of workers."""

import json

import pytest
import torch
from datasets import IterableDataset
from tiny_training import BUDGET, assert_same_weights, build, pairs, trainer_of


def generated(count):
    yield from pairs(count)


class Plain(torch.utils.data.IterableDataset):
    """A stream without a state."""

    def __iter__(self):
        yield from pairs(120)


def shards(numbers):
    for number in numbers:
        yield from pairs(30, number)


STREAMS = {
    "generator": lambda: IterableDataset.from_generator(generated, gen_kwargs={"count": 120}),
    "mapped": lambda: (
        IterableDataset.from_generator(generated, gen_kwargs={"count": 120})
        .map(lambda rows: rows, batched=True, batch_size=7)
        .filter(lambda row: len(row["labels"]) > 3)
    ),
    "shuffled shards": lambda: IterableDataset.from_generator(
        shards, gen_kwargs={"numbers": [1, 2, 3, 4]}
    ).shuffle(seed=1, buffer_size=1),
    "without a state": Plain,
}


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [5, 9])
def test_a_stream_resumes_exactly_at_its_position(tmp_path, stream, workers, stop):
    settings = {"max_steps": 12, "save_strategy": "steps", "save_steps": 1, **BUDGET}
    settings |= {"stream_buffer_size": 40}  # one or two updates in a block

    def run(folder, checkpoint=None, workers=0):
        data = STREAMS[stream]()
        trainer = trainer_of(folder, build(dropout=0.2), data, dataloader_num_workers=workers, **settings)
        trainer.train(resume_from_checkpoint=checkpoint)
        return trainer

    whole = run(tmp_path / "whole")
    position = json.loads((tmp_path / "whole" / f"checkpoint-{stop}" / "stream_position.json").read_text())
    assert position["epoch"] + position["block"] > 0  # not a replay from the start
    resumed = run(tmp_path / "resumed", str(tmp_path / "whole" / f"checkpoint-{stop}"), workers)
    assert_same_weights(resumed.model.state_dict(), whole.model.state_dict())
    assert resumed.state.epoch == whole.state.epoch == 1


def test_a_stream_with_another_buffer_is_refused(tmp_path):
    settings = {"max_steps": 2, "save_strategy": "steps", "save_steps": 2, **BUDGET}
    trainer_of(tmp_path, train_dataset=Plain(), stream_buffer_size=8, **settings).train()
    other = trainer_of(tmp_path, train_dataset=Plain(), stream_buffer_size=9, **{**settings, "max_steps": 4})
    with pytest.raises(ValueError, match="stream_buffer_size changed from 8 to 9"):
        other.train(resume_from_checkpoint=True)
