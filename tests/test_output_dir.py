"""The folder of a run, what a failed run leaves, and the one line that says why it failed."""

import errno
import json
import shutil
import sys

import pytest
import torch
from tiny_training import RESUMED, arguments, trainer_of

from vanilla_transformer.tasks import InputError, prepare_output_dir
from vanilla_transformer.tasks.output_dir import leave_output_dir
from vanilla_transformer.tasks.records import circumstances, data_record
from vanilla_transformer.tasks.results import place_results
from vanilla_transformer.tasks.running import explained, run
from vanilla_transformer.tasks.sources import SourceArguments
from vanilla_transformer.training.run_lock import LOCK, unlock_run


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    trainer_of(folder, **RESUMED).train()
    return folder


@pytest.fixture
def earlier(saved, tmp_path):
    yield shutil.copytree(saved, tmp_path / "run")
    unlock_run(tmp_path / "run")


def prepared(folder, **more):
    return prepare_output_dir(arguments(folder, **more))


def test_output_dir_is_created_and_must_be_writable(tmp_path):
    new = tmp_path / "outputs" / "run"
    assert prepared(new) is None and new.is_dir()
    assert (new / LOCK).exists()
    leave_output_dir(new)
    assert not new.exists()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write to .*file/run"):
        prepared(tmp_path / "file" / "run")


def test_a_failed_run_leaves_what_was_there(tmp_path):
    (tmp_path / "mine.txt").touch()
    assert prepared(tmp_path) is None
    leave_output_dir(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_earlier_run_is_resumed_or_raises(earlier, tmp_path):
    assert prepared(earlier, resume_from_checkpoint="true") == f"{earlier}/checkpoint-9"
    assert prepared(earlier, resume_from_checkpoint="auto") == f"{earlier}/checkpoint-9"
    given = f"{earlier}/checkpoint-3"
    assert prepared(tmp_path / "new", resume_from_checkpoint=given) == given
    with pytest.raises(InputError, match="an earlier run. Resume it with --resume_from_checkpoint true"):
        prepared(earlier)
    with pytest.raises(InputError, match="there is no folder nowhere"):
        prepared(earlier, resume_from_checkpoint="nowhere")


def test_a_new_run_is_started_only_if_asked(tmp_path):
    (tmp_path / "checkpoint-4").mkdir()
    with pytest.raises(InputError, match=f"no checkpoint in {tmp_path}; `auto` starts a new run"):
        prepared(tmp_path, resume_from_checkpoint="true")
    assert prepared(tmp_path, resume_from_checkpoint="auto") is None
    unlock_run(tmp_path)


def test_damaged_checkpoints_are_never_a_reason_to_start_anew(earlier):
    for step in (3, 6, 9):
        (earlier / f"checkpoint-{step}" / "optimizer.pt").write_bytes(b"broken")
    for wanted in ("true", "auto"):
        with pytest.raises(InputError, match="no checkpoint .* undamaged: checkpoint-9: optimizer.pt has 6"):
            prepared(earlier, resume_from_checkpoint=wanted)
    with pytest.raises(InputError, match="checkpoint-6: optimizer.pt has 6 bytes"):
        prepared(earlier, resume_from_checkpoint=f"{earlier}/checkpoint-6")


def test_scoring_needs_a_model(tmp_path):
    with pytest.raises(InputError, match="do_train=false scores the model in output_dir, but .* no model"):
        prepared(tmp_path / "nothing", do_train=False)
    assert not (tmp_path / "nothing").exists()
    with pytest.raises(InputError, match="do_train=false has nothing to resume"):
        prepared(tmp_path / "nothing", do_train=False, resume_from_checkpoint="true")


# One line


class ConnectError(Exception):
    __module__ = "httpx"


@pytest.mark.parametrize(
    "error, said",
    [
        (MemoryError(), "out of memory (MemoryError): make batches smaller"),
        (torch.OutOfMemoryError("CUDA out of memory.\nTried"), "out of memory (CUDA out of memory. Tried)"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), "out of memory"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), "dataloader_num_workers"),
        (ConnectionResetError(104, "Connection reset by peer"), "dataloader_num_workers"),
        (
            ValueError(
                "Caught ValueError in DataLoader worker process 0.\nOriginal Traceback (most recent call "
                "last):\n  File x\nValueError: example 7 does not fit"
            ),
            "ValueError: example 7 does not fit",
        ),
        (ConnectError("Name or service not known"), "the Hugging Face Hub cannot be reached"),
        (OSError(errno.ENOSPC, "No space left on device"), "free some disk space"),
        (InputError("train_file: there is no file x"), "train_file: there is no file x"),
        (FloatingPointError("update 7 has a loss of nan"), "update 7 has a loss of nan"),
        (KeyError("a bug"), None),
        (RuntimeError("another bug"), None),
    ],
)
def test_every_foreseeable_error_is_one_line(error, said):
    message = explained(error)
    assert message is None if said is None else said in message and "\n" not in message


def test_a_recipe_that_fails_removes_the_folder_it_made(tmp_path, monkeypatch):
    from vanilla_transformer import VanillaTransformerConfig
    from vanilla_transformer.training import VanillaTransformerTrainingArguments

    def fail(model, args):
        prepare_output_dir(args)
        raise InputError("train_file: x.en, line 3: not UTF-8")

    folder = tmp_path / "run"
    monkeypatch.setattr(sys, "argv", ["recipe", "--output_dir", str(folder), "--use_cpu", "true"])
    with pytest.raises(SystemExit, match="error: train_file: x.en, line 3: not UTF-8"):
        run(fail, (VanillaTransformerConfig, VanillaTransformerTrainingArguments))
    assert not folder.exists()


# Results


def test_files_of_one_name_have_their_folders_in_the_record(tmp_path):
    files = [tmp_path / "data" / language / "train.txt" for language in ("en", "de")]
    for file in files:
        file.parent.mkdir(parents=True)
        file.write_text(file.parent.name)
    record = data_record(SourceArguments(train_file=[str(file) for file in files]))["train"]
    assert list(record) == ["en/train.txt", "de/train.txt"] and len({*record.values()}) == 2


def test_results_name_the_data_they_belong_to(tmp_path):
    for name in ("train", "news", "other"):
        (tmp_path / f"{name}.jsonl").write_text(f'{{"text": "{name}"}}\n')

    def place(test, folder="run", **settings):
        files = {"train_file": [str(tmp_path / "train.jsonl")], "test_file": [str(tmp_path / test)]}
        (tmp_path / folder).mkdir(exist_ok=True)
        data = SourceArguments(**files)
        return place_results(arguments(tmp_path / folder, **settings), data), data_record(data)

    first, record = place("news.jsonl")
    assert first.file.name == "results.json" and first.has_card and first.folder.name == "run"
    assert len(record["test"]["news.jsonl"]) == len(record["train"]["train.jsonl"]) == 64
    first.file.write_text(json.dumps({"data": record}))
    assert place("news.jsonl")[0] == first  # the same data again
    resumed, record = place("other.jsonl")
    assert resumed.file.name == "results_other.json" and not resumed.has_card
    assert resumed.folder.name == "outputs_other" and resumed.folder.is_dir()
    resumed.file.write_text(json.dumps({"data": record, "settings": resumed.settings}))
    assert place("other.jsonl", do_train=False)[0] == resumed
    (tmp_path / "other.jsonl").write_text('{"text": "changed"}\n')
    changed, _ = place("other.jsonl", do_train=False)
    assert changed.file.name.startswith("results_other_") and changed.file != resumed.file


def test_results_say_how_they_came_about(tmp_path):
    found = circumstances(arguments(tmp_path, seed=7))
    assert found["seed"] == 7 and found["versions"]["torch"] == torch.__version__
    assert found["date"][:2] == "20" and found["date"].endswith("+00:00")
    assert found["commit"] is None or len(found["commit"].rstrip("+")) == 40
