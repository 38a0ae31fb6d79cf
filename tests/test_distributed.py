"""Two processes train as one: the same sentences in the same updates, the same weights, and resumed exactly.

Run by torchrun, this file is the program that each process executes.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from tiny_training import RESUMES_ON_CPU

from vanilla_transformer import VanillaTransformerConfig, VanillaTransformerForConditionalGeneration
from vanilla_transformer.training import (
    Seq2SeqCollator,
    VanillaTransformerTrainer,
    VanillaTransformerTrainingArguments,
)

pytestmark = [pytest.mark.slow, RESUMES_ON_CPU]
SENTENCES, UPDATES, SAVED = 203, 14, 8


class WatchedTrainer(VanillaTransformerTrainer):
    """Notes which sentences each update is made of; a sentence's first id is its own."""

    def training_step(self, model, inputs, *args, **kwargs):
        self.seen.setdefault(self.state.global_step, []).extend((inputs["input_ids"][:, 0] - 10).tolist())
        return super().training_step(model, inputs, *args, **kwargs)


def train(folder, accumulation, stream, resume=None):
    """Train past an epoch's end; leave {update: sentences} of this process and the weights in `folder`."""
    rng = np.random.default_rng(0)
    rows = [
        {"input_ids": [10 + index] + [5] * int(source), "labels": [6] * int(target) + [2]}
        for index, (source, target) in enumerate(rng.integers(3, 12, (SENTENCES, 2)))
    ]
    data = datasets.Dataset.from_list(rows)
    config = VanillaTransformerConfig(
        vocab_size=300,
        hidden_size=16,
        intermediate_size=16,
        num_attention_heads=2,
        encoder_layers=1,
        decoder_layers=1,
        dropout=0.0,
    )
    torch.manual_seed(0)
    model = VanillaTransformerForConditionalGeneration(config)
    args = VanillaTransformerTrainingArguments(
        output_dir=folder,
        max_source_tokens=100,
        max_target_tokens=100,
        gradient_accumulation_steps=accumulation,
        stream_buffer_size=60,
        warmup_steps=10,
        max_steps=UPDATES,
        save_steps=SAVED,
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = WatchedTrainer(
        model,
        args,
        train_dataset=data.to_iterable_dataset(num_shards=4) if stream else data,
        data_collator=Seq2SeqCollator(config.pad_token_id),
    )
    trainer.seen = {}
    trainer.train(resume_from_checkpoint=resume)
    Path(folder, f"seen-{args.process_index}.json").write_text(json.dumps(trainer.seen))
    if trainer.is_world_process_zero():
        torch.save(model.state_dict(), Path(folder, "weights.pt"))


def results(folder):
    updates = {}
    for file in sorted(folder.glob("seen-*.json")):
        for update, sentences in json.loads(file.read_text()).items():
            updates[int(update)] = sorted(updates.get(int(update), []) + sentences)
    return updates, torch.load(folder / "weights.pt")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    run = subprocess.run([*launch, __file__, folder], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    for kind in ("list", "stream"):
        train(folder / kind / "one", 4, kind == "stream")
    return folder


@pytest.mark.parametrize("kind", ["list", "stream"])
def test_two_processes_are_one(runs, kind):
    (updates_of_one, one), (updates_of_two, two) = (results(runs / kind / name) for name in ("one", "two"))
    assert updates_of_one == updates_of_two
    assert len(updates_of_one) == UPDATES
    epoch = [sentence for update in sorted(updates_of_one) for sentence in updates_of_one[update]][:SENTENCES]
    assert sorted(epoch) == list(range(SENTENCES))
    for name in one:
        # A bias of the keys changes no attention weight: its gradient is rounding, which Adam blows up.
        if not name.endswith("k_proj.bias"):
            torch.testing.assert_close(one[name], two[name], rtol=0, atol=1e-4, msg=name)


@pytest.mark.parametrize("kind", ["list", "stream"])
def test_two_processes_resume_exactly(runs, kind):
    (whole_updates, whole), (updates, resumed) = (results(runs / kind / name) for name in ("two", "resumed"))
    assert updates == {update: whole_updates[update] for update in range(SAVED, UPDATES)}
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


if __name__ == "__main__":
    for kind in ("list", "stream"):
        folder = Path(sys.argv[1], kind)
        train(folder / "two", 2, kind == "stream")
        train(folder / "resumed", 2, kind == "stream", resume=folder / "two" / f"checkpoint-{SAVED}")
    torch.distributed.destroy_process_group()
