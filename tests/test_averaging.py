"""Checkpoint averaging: the mean itself, the folder it leaves, and what it refuses."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from vanilla_transformer import VanillaTransformerConfig, VanillaTransformerForConditionalGeneration
from vanilla_transformer.training import average_checkpoints, last_checkpoints


def model(seed, **settings):
    torch.manual_seed(seed)
    settings = {
        "vocab_size": 50,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_attention_heads": 2,
    } | settings
    config = VanillaTransformerConfig(encoder_layers=1, decoder_layers=1, **settings)
    return VanillaTransformerForConditionalGeneration(config)


def checkpoint(run_dir, step, weights=None, log=(), **save):
    """A folder as the Trainer leaves it."""
    folder = run_dir / f"checkpoint-{step}"
    (weights or model(step)).save_pretrained(folder, **save)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": list(log)}))
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        (folder / name).write_bytes(b"x")
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture
def folders(tmp_path):
    return [checkpoint(tmp_path, step) for step in (10, 20, 30)]


def test_each_weight_is_the_mean(folders):
    mean = average_checkpoints(folders)
    states = [load_file(folder / "model.safetensors") for folder in folders]
    assert mean.keys() == states[0].keys()
    for name, weight in mean.items():
        expected = sum(state[name].double() for state in states) / 3
        assert torch.equal(weight, expected.to(weight.dtype)), name


def test_mean_folder_is_a_model_with_tied_weights(folders, tmp_path):
    average_checkpoints(folders, tmp_path / "mean")
    loaded = VanillaTransformerForConditionalGeneration.from_pretrained(tmp_path / "mean")
    models = [VanillaTransformerForConditionalGeneration.from_pretrained(folder) for folder in folders]
    parameters = [dict(each.named_parameters()) for each in models]
    for name, weight in loaded.named_parameters():
        torch.testing.assert_close(weight, sum(each[name] for each in parameters) / 3, msg=name)
    assert loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight
    left = {file.name for file in (tmp_path / "mean").iterdir() if file.suffix != ".py"}  # and the code
    assert {"config.json", "generation_config.json", "tokenizer.json", "model.safetensors"} == left


def test_mean_of_one_is_itself(folders):
    state = load_file(folders[0] / "model.safetensors")
    assert all(torch.equal(weight, state[name]) for name, weight in average_checkpoints(folders[:1]).items())


def test_sharded_checkpoints_average_alike(folders, tmp_path):
    shards = [checkpoint(tmp_path / "shards", step, max_shard_size="5KB") for step in (10, 20, 30)]
    assert not (shards[0] / "model.safetensors").exists()
    whole, sharded = (
        average_checkpoints(folders, tmp_path / "mean"),
        average_checkpoints(shards, tmp_path / "mean"),
    )
    assert whole.keys() == sharded.keys()
    assert all(torch.equal(whole[name], sharded[name]) for name in whole)
    loaded = VanillaTransformerForConditionalGeneration.from_pretrained(tmp_path / "mean")
    assert torch.equal(loaded.get_input_embeddings().weight, whole["model.shared.weight"])


def test_stale_weights_do_not_survive(folders, tmp_path):
    """A folder that held a sharded model holds the mean alone afterwards."""
    checkpoint(tmp_path, 99, max_shard_size="5KB").rename(tmp_path / "mean")
    average_checkpoints(folders, tmp_path / "mean")
    assert [file.name for file in (tmp_path / "mean").glob("model*.safetensors*")] == ["model.safetensors"]


def test_half_precision_is_summed_in_full_and_integers_are_the_last(tmp_path):
    folders = []
    for step in range(1, 4):
        folder = tmp_path / str(step)
        folder.mkdir()
        state = {
            "weight": torch.full((4,), 256.0 + 2 * step, dtype=torch.bfloat16),  # bf16 sums lose the odd bits
            "batches": torch.tensor(step),
            "mask": torch.tensor([step == 3]),
        }
        save_file(state, folder / "model.safetensors")
        folders.append(folder)
    mean = average_checkpoints(folders)
    assert mean["weight"].dtype == torch.bfloat16 and mean["weight"].tolist() == [260.0] * 4
    assert mean["batches"].item() == 3 and mean["mask"].item() is True


def test_other_models_raise_by_name(folders, tmp_path):
    wider = checkpoint(tmp_path / "wider", 40, model(0, intermediate_size=64))
    with pytest.raises(ValueError, match=r"fc1\.\w+ is \[64.*wider.*but \[32"):
        average_checkpoints([wider, *folders])
    deeper = checkpoint(tmp_path / "deeper", 40)
    state = load_file(deeper / "model.safetensors")
    save_file(state | {"extra.weight": torch.zeros(2)}, deeper / "model.safetensors")
    with pytest.raises(ValueError, match=r"deeper/checkpoint-40 holds extra.weight"):
        average_checkpoints([*folders, deeper])
    with pytest.raises(ValueError, match=r"deeper/checkpoint-40 holds extra.weight"):
        average_checkpoints([deeper, *folders])


def test_bad_folders_are_named_and_nothing_is_written(folders, tmp_path):
    target = tmp_path / "mean"
    with pytest.raises(FileNotFoundError, match="checkpoint-77"):
        average_checkpoints([*folders, tmp_path / "checkpoint-77"], target)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty does not hold model.safetensors"):
        average_checkpoints([tmp_path / "empty"], target)
    (folders[1] / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(ValueError, match=r"checkpoint-20/model.safetensors cannot be read"):
        average_checkpoints(folders, target)
    assert not target.exists()
    with pytest.raises(ValueError, match="one of the checkpoints"):
        average_checkpoints(folders[2:], folders[2])
    with pytest.raises(ValueError, match="no checkpoints"):
        average_checkpoints([])


def test_last_checkpoints_go_by_number_and_skip_the_incomplete(tmp_path):
    for step in (900, 1000, 2000, 300):
        checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-3000").mkdir()  # killed while it was saved
    (tmp_path / "checkpoint-best").mkdir()
    assert [folder.name for folder in last_checkpoints(tmp_path, 2)] == ["checkpoint-1000", "checkpoint-2000"]
    with pytest.raises(ValueError, match=r"5 checkpoints: .*\[300, 900, 1000, 2000\]"):
        last_checkpoints(tmp_path, 5)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        last_checkpoints(tmp_path / "nowhere", 1)
