"""The command's verbs that train, convert and describe models."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_models import ROOT, call, run, save_translator
from PIL import Image
from tiny_generation import random_model
from tiny_translators import TEXTS, vanilla
from torch.utils.flop_counter import FlopCounterMode

from vanilla_transformer import (
    VanillaTransformerConfig,
    VanillaTransformerDetectionConfig,
    VanillaTransformerForConditionalGeneration,
    VanillaTransformerForObjectDetection,
    VanillaTransformerImageProcessor,
    VanillaTransformerTokenizer,
)
from vanilla_transformer.cli import information, recipes
from vanilla_transformer.cli.pictures import log_history

VERBS = ["train", "evaluate", "average", "card", "info", "plot", "train-tokenizer", "import", "export"]
VERBS += ["detect", "translate", "summarize", "generate", "score", "classify"]


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
    return save_translator(tmp_path_factory.mktemp("models") / "translator")


def test_help_imports_neither_torch_nor_transformers():
    code = """
import sys
from pathlib import Path
sys.argv = ["vanilla-transformer", *sys.argv[1:]]
import vanilla_transformer_command
try:
    vanilla_transformer_command.main()
finally:
    print(sorted({"torch", "transformers", "numpy", "rich", "tqdm"} & set(sys.modules)))
"""
    for words in ([], ["translate"], ["train"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *words, "--help"], capture_output=True, text=True, cwd=ROOT / "src"
        )
        assert done.returncode == 0 and done.stdout.splitlines()[-1] == "[]", done.stderr


def test_the_program_registers_the_package_once_a_verb_needs_it(translator):
    output, _ = run("translate", translator, input=b"the dog\n")
    assert output.count(b"\n") == 1
    output, _ = run("info", "tiny")
    assert b"VanillaTransformerForConditionalGeneration" in output


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_every_verb_shows_a_command(verb):
    assert f"vanilla-transformer {verb} " in call(verb, "--help").stdout
    assert verb in call("--help").stdout


def test_a_shell_can_complete_verbs(monkeypatch):
    # typer asks the parent process which shell it is; a test may have none.
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    shown = call("--show-completion", "bash", code=0).stdout
    assert "_VANILLA_TRANSFORMER_COMPLETE" in shown


def test_info_counts_the_parameters_of_every_preset():
    for name in ("tiny", "small", "table3-C-2-layers"):
        found = json.loads(call("info", name, "--json").stdout)
        model = VanillaTransformerForConditionalGeneration(VanillaTransformerConfig.from_preset(name))
        assert found["parameters"]["total"] == model.num_parameters()
        assert sum(found["parameters"].values()) == 2 * found["parameters"]["total"]
        assert found["weights_bytes"]["fp32"] == 4 * model.num_parameters()
    for kind in ("vision", "detection"):
        assert call("info", "tiny", "--kind", kind).stdout
    assert "no-such-preset" in call("info", "no-such-preset", code=1).stderr


@pytest.mark.parametrize(
    "settings", [{}, {"head_dim": 4, "value_dim": 12}, {"encoder_layers": 3, "norm_position": "pre"}]
)
def test_info_counts_the_operations_that_torch_counts(settings):
    model, length = random_model(50, **settings), 12
    ids = torch.randint(3, 50, (1, length))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=ids, decoder_input_ids=ids, use_cache=False)
    found = information.products(model, length)
    assert sum(found.values()) * length == counter.get_total_flops()


def test_info_reads_a_folder_and_loads_no_weights(translator, tmp_path):
    (tmp_path / "config.json").write_text((translator / "config.json").read_text())
    assert call("info", tmp_path, "--json").stdout == call("info", translator, "--json").stdout


@pytest.mark.parametrize(
    "file, content, named",
    [
        ("config.json", None, "has no config.json"),
        ("config.json", "{nonsense", "config.json is not valid JSON"),
        ("config.json", '{"model_type": "vanilla_transformer", "hidden_size": "x"}', "'hidden_size'"),
        ("model.safetensors", None, "has no weights"),
        ("model.safetensors", "nonsense", "model.safetensors is no file of safetensors"),
        ("tokenizer.json", None, "has no tokenizer"),
        ("tokenizer.json", "{nonsense", "tokenizer.json is not valid JSON"),
    ],
)
def test_a_folder_that_cannot_be_loaded_is_one_line(file, content, named, translator, tmp_path):
    folder = shutil.copytree(translator, tmp_path / "model")
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content)
    error = call("translate", folder, input="the dog\n", code=1).stderr
    assert named in error and str(folder) in error and len(error.strip().splitlines()) == 1


@pytest.mark.parametrize("verb", ["translate", "score", "classify", "info"])
@pytest.mark.parametrize("name", ["no/such/folder", "a-file"])
def test_a_model_that_does_not_exist_is_one_line(verb, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a-file").write_text("x")
    error = call(verb, name, input="the dog\n", code=1).stderr
    expected = {"no/such/folder": "there is no folder no/such/folder", "a-file": "a-file is a file"}[name]
    assert expected in error and len(error.strip().splitlines()) == 1


def test_every_recipe_that_is_listed_has_its_script():
    listed = call("train", "--list").stdout
    for name, path in recipes.settings_files().items():
        assert name in listed
        for given in (name, f"{name}.yaml", f"recipes/{name}.yaml", path):
            script, settings = recipes.find(str(given))
            assert settings.samefile(path) and f"recipes/{script.name}" in path.read_text()


def test_a_yaml_of_ones_own_names_its_recipe(tmp_path):
    (tmp_path / "my.yaml").write_text("# python recipes/text_classification.py my.yaml\nseed: 3\n")
    assert recipes.find(str(tmp_path / "my.yaml"))[0].name == "text_classification.py"
    (tmp_path / "my.yaml").write_text("seed: 3\n")
    result = call("train", tmp_path / "my.yaml", code=2)
    assert "recipes/seq2seq.py" in result.stderr
    assert "--list" in call("train", "no-such-recipe", code=2).stderr
    assert "--list" in call("train", code=2).stderr


def test_training_and_evaluating_with_overridden_keys(tmp_path):
    (tmp_path / "train.tsv").write_text("en\tes\n" + "".join(f"{text}\t{text}\n" for text in TEXTS * 4))
    words = ["--source_lang", "en", "--target_lang", "es"]
    words += ["--train_file", tmp_path / "train.tsv", "--test_file", tmp_path / "train.tsv"]
    words += [
        "--output_dir",
        tmp_path / "run",
        "--model.preset",
        "tiny",
        "--vocab_size",
        290,
        "--use_cpu",
        "true",
    ]
    run("train", "seq2seq", *words, "--max_steps", 2)
    assert (tmp_path / "run" / "config.json").is_file()
    output, _ = run("evaluate", "seq2seq", *words)
    assert b"test_bleu" in output
    assert call("translate", tmp_path / "run", input="the dog\n").stdout.count("\n") == 1


def test_an_error_of_a_recipe_is_one_line_and_a_code():
    _, errors = run("train", "translation/quickstart", "--hidden_size_of_nothing", "3", code=1)
    assert "hidden_size_of_nothing" in errors and "Traceback" not in errors


def test_the_average_of_equal_checkpoints_is_the_checkpoint(translator, tmp_path):
    call("average", translator, translator, "-o", tmp_path / "mean")
    assert (
        call("translate", tmp_path / "mean", input="the dog\n").stdout
        == call("translate", translator, input="the dog\n").stdout
    )
    assert "error" in call("average", tmp_path, "-o", tmp_path / "other", code=1).stderr


def test_a_card_has_the_scores_of_the_run(translator):
    (translator / "results.json").write_text(json.dumps({"test_bleu": 12.3, "parameters": 7, "minutes": 1.5}))
    words = ("--data", "four sentences", "--languages", "en,es", "--set", "seed=3")
    call("card", translator, "--task", "translation", *words)
    text = (translator / "README.md").read_text()
    assert "12.3" in text and "four sentences" in text and "BLEU" in text
    assert "translation" in call("card", translator, "--task", "nonsense", *words, code=2).stderr
    for broken, named in (
        ("{bad", "is not valid JSON"),
        ("[]", "holds no entries, but list"),
    ):
        (translator / "results.json").write_text(broken)
        error = call("card", translator, "--task", "translation", *words, code=1).stderr
        assert f"results.json {named}" in error
    (translator / "results.json").unlink()


def test_a_tokenizer_of_files_is_that_of_their_texts(tmp_path):
    (tmp_path / "text").write_bytes("\n".join(TEXTS * 3).encode() + b"\nbad \xff line\n")
    words = ("-o", tmp_path / "tokenizer", "--vocab-size", 280, "--language-tag", "es")
    result = call("train-tokenizer", tmp_path / "text", *words, code=3)
    assert "line 13" in result.stderr
    expected = VanillaTransformerTokenizer.train(
        [TEXTS * 3], vocab_size=280, language_tags=["es"], show_progress=False
    )
    trained = VanillaTransformerTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert trained.get_vocab() == expected.get_vocab() and trained.languages == ["es"]


def test_import_passes_its_options_on(translator, tmp_path):
    assert "needs no import" in call("import", translator, tmp_path / "out", code=1).stderr
    assert not (tmp_path / "out").exists()
    assert "NAME=VALUE" in call("import", translator, "--set", "heads", code=2).stderr
    assert "not valid YAML" in call("import", translator, "--set", "activation=[x", code=2).stderr
    weights = torch.nn.Transformer(16, 2, 1, 1, 32, batch_first=True).state_dict()
    weights = {f"transformer.{name}": value for name, value in weights.items()}
    tables = dict.fromkeys(["src_emb.weight", "tgt_emb.weight", "generator.weight"], torch.ones(11, 16))
    torch.save(weights | tables, tmp_path / "theirs.pt")
    for setting in ("num_attention_heads=eight", "norm_position=mid"):
        given = ("--set", "num_attention_heads=2", "--set", setting)
        error = call("import", tmp_path / "theirs.pt", *given, code=1).stderr
        assert setting.split("=")[0] in error and len(error.strip().splitlines()) == 1


def save_detector(folder):
    sizes = dict(
        hidden_size=16, intermediate_size=32, num_attention_heads=2, encoder_layers=1, decoder_layers=1
    )
    config = VanillaTransformerDetectionConfig(
        patch_size=8, num_queries=5, id2label={0: "cat", 1: "dog"}, **sizes
    )
    VanillaTransformerForObjectDetection(config).save_pretrained(folder)
    VanillaTransformerImageProcessor(size={"height": 64, "width": 64}, patch_size=8).save_pretrained(folder)
    return folder


def test_detect_draws_boxes_and_reports_bad_pictures(tmp_path):
    detector, photos = save_detector(tmp_path / "detector"), tmp_path / "photos"
    photos.mkdir()
    for name in ("a.png", "b.jpg"):
        Image.fromarray(np.full((64, 64, 3), 90, dtype=np.uint8)).save(photos / name)
    (photos / "c.png").write_bytes(b"no picture")
    words = ("detect", detector, photos, "-o", tmp_path / "found", "--threshold", 0)
    records = [json.loads(line) for line in call(*words, code=3).stdout.splitlines()]
    assert [sorted(record) for record in records] == [["drawn", "image", "objects"]] * 2 + [
        ["error", "image"]
    ]
    assert len(records[0]["objects"]) > 0
    drawn = np.asarray(Image.open(tmp_path / "found" / "a.png").convert("RGB"))
    assert drawn.shape[0] == drawn.shape[1] >= 64 and (drawn != 90).any()
    before = (photos / "a.png").read_bytes()
    assert "is one of the pictures" in call("detect", detector, photos, "-o", photos, code=2).stderr
    assert (photos / "a.png").read_bytes() == before


def test_plot_draws_curves_and_attention(translator, tmp_path):
    history = [{"step": step, "loss": 3.0 / step} for step in (1, 2, 3)]
    (tmp_path / "checkpoint-3").mkdir()
    (tmp_path / "checkpoint-3" / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "checkpoint-best" / "trainer_state.json").write_text("{}")
    (tmp_path / "checkpoint-12").mkdir()
    newest = {"log_history": [*history, {"step": 12, "loss": 0.5}]}
    (tmp_path / "checkpoint-12" / "trainer_state.json").write_text(json.dumps(newest))
    assert log_history(tmp_path)[-1]["step"] == 12
    call("plot", tmp_path, "-o", tmp_path / "curves.png")
    call("plot", translator, "--source", "the dog", "-o", tmp_path / "attention.svg")
    assert (tmp_path / "curves.png").stat().st_size and (tmp_path / "attention.svg").stat().st_size
    assert "trainer_state.json" in call("plot", translator, "-o", tmp_path / "x.png", code=1).stderr


def test_plot_draws_what_a_folder_holds(translator, tmp_path):
    for what in ("architecture", "positions", "similarity", "embeddings"):
        call("plot", translator, "--what", what, "-o", tmp_path / f"{what}.svg")
        assert "</svg>" in (tmp_path / f"{what}.svg").read_text()
    call("plot", "base", "--what", "architecture", "-o", tmp_path / "base.png")
    text = ("--source", "the dog", "--target", "the cat")
    call("plot", translator, *text, "--what", "alignment", "-o", tmp_path / "alignment.png")
    call("plot", translator, *text, "--attention", "decoder", "--head", "all", "-o", tmp_path / "heads.png")
    call("plot", translator, *text, "--html", "-o", tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    for words, message in (
        (("--head", "first", *text), "--head first: give a number, or all"),
        (("--what", "alignment"), "--what alignment needs a text: give --source"),
        (("--html",), "--html shows attention: give --source"),
        (("--html", *text), "--html writes a .html file"),
        (("--html", "--head", "all", *text), "--html shows all heads: remove --head"),
    ):
        assert message in call("plot", translator, *words, "-o", tmp_path / "x.png", code=2).stderr
    assert "only --html does" in call("plot", translator, *text, "-o", tmp_path / "x.html", code=2).stderr
    long = ("--source", "the dog " * 400)
    assert "shows at most 512" in call("plot", translator, *long, "-o", tmp_path / "x.png", code=1).stderr
    assert (
        "there is no folder"
        in call("plot", translator, *text, "-o", tmp_path / "no" / "x.png", code=1).stderr
    )
    assert "give --what architecture" in call("plot", "base", "-o", tmp_path / "x.png", code=1).stderr


class TestExport:
    """To CTranslate2: equal outputs in float32, or nothing at all."""

    @pytest.fixture(autouse=True)
    def needs_ctranslate2(self):
        pytest.importorskip("ctranslate2")

    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"norm_position": "pre"},
            {"position_embedding_type": "learned"},
            {"tie_word_embeddings": False, "activation": "gelu", "output_bias": True},
            {"layer_norm_eps": 1e-3},
        ],
        ids=str,
    )
    def test_outputs_are_equal(self, settings, tmp_path):
        model = save_translator(
            tmp_path / "model",
            max_position_embeddings=128,
            **settings,
        )
        result = call("export", model, tmp_path / "ct2")
        assert result.stdout.count("100 of 100 outputs are equal") == 2
        assert (tmp_path / "ct2" / "model.bin").is_file()

    @pytest.mark.parametrize("precision", ["bfloat16", "int8"])
    def test_smaller_weights_are_compared_too(self, precision, translator, tmp_path):
        (tmp_path / "dev.txt").write_text("\n".join(TEXTS))
        words = ("--precision", precision, "--sentences", tmp_path / "dev.txt")
        result = call("export", translator, tmp_path / "ct2", *words)
        assert f"{precision}, 4 beams" in result.stdout
        sizes = [(tmp_path / "ct2" / "model.bin").stat().st_size]
        call("export", translator, tmp_path / "whole", "--sentences", tmp_path / "dev.txt")
        assert sizes[0] < (tmp_path / "whole" / "model.bin").stat().st_size

    def test_any_difference_stops_the_export(self, translator, tmp_path, monkeypatch):
        from vanilla_transformer.interop import exporting

        stock = exporting.VanillaTransformerLoader.set_stack

        def wrong(self, spec, stack, config):
            stock(self, spec, stack, config)
            spec.scale_embeddings = 1.1 * spec.scale_embeddings

        monkeypatch.setattr(exporting.VanillaTransformerLoader, "set_stack", wrong)
        result = call("export", translator, tmp_path / "ct2", code=1)
        assert "not exact" in result.stderr and not (tmp_path / "ct2").exists()

    @pytest.mark.parametrize(
        "settings",
        [
            {"head_dim": 4, "value_dim": 12},
            {"norm_type": "batch"},
            {"norm_position": "post", "final_norm": True},
        ],
        ids=str,
    )
    def test_what_ctranslate2_cannot_compute_is_refused(self, settings, tmp_path):
        model = save_translator(tmp_path / "model", **settings)
        assert "cannot compute" in call("export", model, tmp_path / "ct2", code=1).stderr
        assert not (tmp_path / "ct2").exists()

    def test_an_existing_folder_is_kept(self, translator, tmp_path):
        assert "exists" in call("export", translator, tmp_path, code=1).stderr

    def test_the_folder_translates_with_its_own_tokenizer(self, translator, tmp_path):
        import ctranslate2

        call("export", translator, tmp_path / "ct2")
        tokenizer = VanillaTransformerTokenizer.from_pretrained(tmp_path / "ct2")
        source = tokenizer.convert_ids_to_tokens(tokenizer("the dog")["input_ids"])
        target = ctranslate2.Translator(str(tmp_path / "ct2")).translate_batch([source])[0].hypotheses[0]
        assert isinstance(tokenizer.decode(tokenizer.convert_tokens_to_ids(target)), str)


def test_models_of_other_kinds_are_refused(tmp_path):
    from transformers import MarianConfig, MarianMTModel

    MarianMTModel(MarianConfig(vocab_size=300, d_model=16, pad_token_id=1)).save_pretrained(
        tmp_path / "marian"
    )
    vanilla()[1].save_pretrained(tmp_path / "marian")
    result = call("translate", tmp_path / "marian", "--precision", "int8", input="the dog\n", code=2)
    assert "import" in result.stderr


def test_a_file_that_is_no_text_is_named(translator, tmp_path):
    broken = tmp_path / "broken"
    broken.write_bytes(b"a dog\tein H\xfcndchen\n")
    for words in (
        ("import", translator, "--pairs", broken),
        ("export", translator, tmp_path / "ct2", "--sentences", broken),
        ("train", broken),
    ):
        error = call(*words, code=1).stderr
        assert f"{broken} is not UTF-8" in error and len(error.strip().splitlines()) == 1
    (tmp_path / "trainer_state.json").write_text("{}")
    error = call("plot", tmp_path, "-o", tmp_path / "curves.png", code=1).stderr
    assert f"{tmp_path / 'trainer_state.json'} has no log_history" in error
