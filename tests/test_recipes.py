"""Recipes: every YAML parses and has a receipt; the translation recipe runs from data to pipeline."""

import itertools
import json
import re
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from launch import launch, load_script, parse_recipe, run_recipe
from safetensors.torch import load_file
from transformers import pipeline

from vanilla_transformer.corpora import load_corpus
from vanilla_transformer.tasks.settings import InputError

ROOT = Path(__file__).parents[1]
ALL = sorted(path for path in (ROOT / "recipes").glob("*/*.yaml") if path.parent.name != "accelerate")
TASKS = sorted({path.parent.name for path in ALL})
QUICKSTART = "recipes/translation/quickstart.yaml"

# The quickstart on a few sentences and a very small model.
SETTINGS = {
    **{"max_train_samples": 400, "max_validation_samples": 4, "max_test_samples": 6, "vocab_size": 400},
    **{"max_source_length": 200, "max_target_length": 200, "max_extra_tokens": 2, "max_steps": 2},
    **{"max_source_tokens": 1000, "max_target_tokens": 1000, "eval_strategy": "steps", "eval_steps": 1},
    **{"model.hidden_size": 16, "model.intermediate_size": 32, "model.num_attention_heads": 2},
    **{"model.encoder_layers": 1, "model.decoder_layers": 1, "logging_steps": 1, "use_cpu": True},
    **{"save_strategy": "steps", "save_steps": 1, "save_total_limit": 2, "average_checkpoints": 2},
}
SMALL = [f"--{name}={value}" for name, value in SETTINGS.items()]

SCRIPTS = {"translation": "seq2seq", "summarization": "seq2seq"}  # other folders have their script's name


@pytest.mark.parametrize("path", ALL, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_recipe_parses(path):
    """Every key exists, every value has the right type, and the sizes make a valid config."""
    script = SCRIPTS.get(path.parent.name, path.parent.name)
    flags = ["--bf16=false"]  # transformers refuses bf16 on a machine without a GPU
    if path.parent.name == "summarization" and path.stem == "quickstart":
        flags += ["--train_file=train.jsonl"]  # the user's own data
    model_settings, *_, args = parse_recipe(script, path, *flags)
    assert args.output_dir.startswith("outputs/")
    assert model_settings


@pytest.mark.parametrize("path", ALL, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_recipe_opens_with_its_receipt(path):
    """The command and what it measured, or that nobody has run it yet."""
    header = list(itertools.takewhile(lambda line: line.startswith("#"), path.read_text().splitlines()))
    assert len(header) <= 8
    assert f"recipes/{path.parent.name}/{path.name}" in header[0]
    if not header[0].startswith("# Not run yet: "):
        hardware, time, score = re.fullmatch(
            r"# (.*?), (?:.*, )?([\d.]+ minutes.*?), (.*)", header[1]
        ).groups()
        assert re.search(r"\d", hardware) and re.search(r"\d", score)


def test_no_two_recipes_write_to_one_folder():
    folders = [re.search(r"^output_dir: (.*)$", path.read_text(), re.MULTILINE)[1] for path in ALL]
    assert len(set(folders)) == len(folders)
    assert all(re.fullmatch(r"outputs/\w+", folder) for folder in folders)


@pytest.mark.parametrize("task", TASKS)
def test_the_table_of_recipes_lists_them_all(task):
    readme = (ROOT / "recipes" / task / "README.md").read_text()
    stems = {path.stem for path in ALL if path.parent.name == task}
    assert set(re.findall(r"\((\w+)\.yaml\)", readme)) == stems


@pytest.mark.parametrize("task", TASKS)
def test_the_table_of_results_is_made_from_the_runs(task):
    tables = load_script("tools/collect_results.py")
    readme = (ROOT / "recipes" / task / "README.md").read_text()
    assert tables.with_table(readme, tables.table(ROOT / "recipes" / task)) == readme


@pytest.mark.parametrize("path", ALL, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_receipt_and_a_result_come_together(path):
    run = not path.read_text().startswith("# Not run yet: ")
    result = path.parent / "results" / f"{path.stem}.json"
    assert run == result.is_file()


@pytest.mark.parametrize(
    "path", sorted((ROOT / "recipes" / "accelerate").glob("*.yaml")), ids=lambda path: path.stem
)
def test_launch_configs_load_in_accelerate(path):
    config = load_config_from_file(str(path))
    assert config.num_processes >= 2 * config.num_machines
    if config.fsdp_config:
        from vanilla_transformer import layers, modeling_vanilla_transformer, stacks

        for name in config.fsdp_config["fsdp_transformer_layer_cls_to_wrap"].split(","):
            assert any(hasattr(module, name) for module in (layers, stacks, modeling_vanilla_transformer))


def test_the_quickstart_from_data_to_pipeline(tmp_path, capsys):
    folder = tmp_path / "model"
    run_recipe("seq2seq", QUICKSTART, *SMALL, "--output_dir", folder)

    results = json.loads((folder / "results.json").read_text())
    assert results["updates"] == 2
    assert results["test_perplexity"] > 1
    assert "version:" in results["test_bleu_signature"]

    lines = [json.loads(line) for line in (folder / "translations.jsonl").read_text().splitlines()]
    assert [line["source"] for line in lines] == load_corpus("bible_en_es")["test"]["en"][:6]

    translate = pipeline("translation", model=str(folder))
    given = [line["source"] for line in lines]
    assert [out["translation_text"] for out in translate(given)] == [line["translation"] for line in lines]
    assert "test" in (folder / "README.md").read_text()
    assert f'pipeline("translation", model="{folder}")' in capsys.readouterr().out

    with pytest.raises(InputError, match="resume_from_checkpoint"):
        run_recipe("seq2seq", QUICKSTART, *SMALL, "--output_dir", folder)
    resume = ["--max_steps=3", "--resume_from_checkpoint=true"]
    run_recipe("seq2seq", QUICKSTART, *SMALL, "--output_dir", folder, *resume)
    assert json.loads((folder / "results.json").read_text())["updates"] == 3


def test_parallel_text_files_and_a_given_tokenizer(tmp_path):
    for language, word in (("en", "dog"), ("de", "Hund")):
        (tmp_path / f"train.{language}").write_text("".join(f"{word} {number}\n" for number in range(200)))
    files = [tmp_path / "train.en", tmp_path / "train.de"]
    mine = ["--train_file", *files, "--source_lang=en", "--target_lang=de", *SMALL, "--eval_strategy=no"]
    run_recipe("seq2seq", *mine, "--output_dir", tmp_path / "one")
    assert json.loads((tmp_path / "one" / "results.json").read_text())["updates"] == 2

    more = ["--test_file", *files, "--tokenizer", tmp_path / "one", "--output_dir", tmp_path / "two"]
    run_recipe("seq2seq", *mine, *more)
    one, two = (json.loads((tmp_path / name / "tokenizer.json").read_text()) for name in ("one", "two"))
    assert one == two
    assert len((tmp_path / "two" / "translations.jsonl").read_text().splitlines()) == 6


def test_a_stream_of_files_resumes_with_any_number_of_workers(tmp_path):
    for file in range(3):
        rows = [{"en": f"dog {file} {number}", "de": f"Hund {number} {file}"} for number in range(70)]
        (tmp_path / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def train(folder, *more):
        words = ["--train_file", tmp_path / "[0-2].jsonl", "--source_lang=en", "--target_lang=de", *SMALL]
        words += ["--streaming=true", "--stream_buffer_size=64", "--eval_strategy=no", "--max_steps=9"]
        words += ["--save_steps=3", "--max_source_tokens=300", "--max_target_tokens=300"]
        run_recipe("seq2seq", *words, "--average_checkpoints=0", "--output_dir", tmp_path / folder, *more)
        return load_file(tmp_path / folder / "model.safetensors")

    whole = train("whole", "--save_total_limit=5")
    checkpoint = tmp_path / "whole" / "checkpoint-6"
    position = json.loads((checkpoint / "stream_position.json").read_text())
    assert position["epoch"] + position["block"] > 0
    for workers in (0, 2):
        flags = ["--resume_from_checkpoint", checkpoint, f"--dataloader_num_workers={workers}"]
        resumed = train(f"resumed-{workers}", *flags)
        assert all(torch.equal(resumed[name], whole[name]) for name in whole)

    changed = (tmp_path / "1.jsonl").read_text().replace("dog 1 69", "cat 1 69")
    (tmp_path / "1.jsonl").write_text(changed)
    with pytest.raises(ValueError, match="checksums of the training files changed"):
        train("changed", *flags)


def test_an_expected_error_is_one_line():
    done = launch("recipes/seq2seq.py", QUICKSTART, "--lerning_rate=1")
    assert done.returncode == 1
    assert "did you mean 'learning_rate'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_two_processes_make_one_training(launcher, tmp_path):
    words = [QUICKSTART, *SMALL, "--output_dir", tmp_path / "model"]
    done = launch("recipes/seq2seq.py", *words, processes=2, launcher=launcher)
    assert done.returncode == 0, done.stderr[-4000:]
    results = json.loads((tmp_path / "model" / "results.json").read_text())
    assert results["updates"] == 2
    assert results["hardware"].startswith(("2 threads", "2 x "))
    assert done.stdout.count("The model is in") == 1
    assert len((tmp_path / "model" / "translations.jsonl").read_text().splitlines()) == 6
