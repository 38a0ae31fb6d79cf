"""Settings: YAML keys and flags are one set of typed names; flags override; errors name the line."""

from dataclasses import dataclass, field

import pytest
from transformers import Seq2SeqTrainingArguments

from vanilla_transformer import VanillaTransformerConfig
from vanilla_transformer.tasks.settings import InputError, parse
from vanilla_transformer.training import VanillaTransformerTrainingArguments


@dataclass
class Own:
    names: list[str] | None = field(default=None, metadata={"help": "words"})
    count: int = field(default=3, metadata={"help": "how many"})


def read(tmp_path, text, *flags):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return parse(VanillaTransformerConfig, Own, Seq2SeqTrainingArguments, argv=[str(path), *flags])


def test_types_come_from_the_fields_not_from_yaml(tmp_path):
    text = """
learning_rate: 1e-4
report_to: none
use_cpu: yes
names: [a, "1"]
count: "7"
lr_scheduler_kwargs: {power: 1e-3, cycles: 2}
model:
  preset: tiny
  dropout: 3e-1
  head_dim: null
  tie_word_embeddings: false
"""
    model, own, args = read(tmp_path, text)
    assert (args.learning_rate, args.use_cpu) == (1e-4, True)
    assert args.lr_scheduler_kwargs == {"power": 1e-3, "cycles": 2}
    assert own == Own(["a", "1"], 7)
    assert model == {"preset": "tiny", "dropout": 0.3, "head_dim": None, "tie_word_embeddings": False}


def test_flags_override_the_yaml_and_the_last_one_wins(tmp_path):
    text = "count: 1\nseed: 5\nmodel: {hidden_size: 64}"
    flags = ["--count", "2", "--count=3", "--model.hidden_size", "128", "--use-cpu"]
    model, own, args = read(tmp_path, text, *flags)
    assert (model, own.count, args.seed, args.use_cpu) == ({"hidden_size": 128}, 3, 5, True)


def test_a_recipes_defaults_yield_to_the_yaml_and_the_flags(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("count: 2")
    defaults = {"count": 1, "seed": 7}
    words = [VanillaTransformerConfig, Own, Seq2SeqTrainingArguments]
    _, own, args = parse(*words, argv=[], defaults=defaults)
    assert (own.count, args.seed) == (1, 7)
    _, own, args = parse(*words, argv=[str(path), "--seed=8"], defaults=defaults)
    assert (own.count, args.seed) == (2, 8)


def test_flags_need_no_yaml_and_a_yaml_may_be_empty(tmp_path):
    flags = ["--count", "5"]
    alone = parse(VanillaTransformerConfig, Own, argv=flags)
    assert alone == ({}, Own(count=5))
    assert read(tmp_path, "# nothing\n", *flags)[:2] == alone
    assert read(tmp_path, "model:\nnames: null\n")[:2] == ({}, Own())


@pytest.mark.parametrize(
    "text, flags, named",
    [
        ("lerning_rate: 3", [], ["recipe.yaml, line 1", "'lerning_rate'", "did you mean 'learning_rate'"]),
        ("seed: 1\nlearning_rate: fast", [], ["line 2", "learning_rate", "'fast'"]),
        ("seed: null", [], ["line 1", "seed", "42"]),
        ("count: [1, 2]", [], ["line 1", "count", "one value"]),
        ("seed: 1\ncount: 2\nseed: 3", [], ["line 3", "seed", "line 1"]),
        ("model:\n  hidden_size: 1\n  hidden_size: 2", [], ["line 3", "model.hidden_size", "line 2"]),
        ("model:\n  hiden_size: 3", [], ["line 2", "'hiden_size'", "did you mean 'hidden_size'"]),
        ("model:\n  d_model: 3", [], ["line 2", "'d_model'", "write 'hidden_size'"]),
        ("model:\n  vocab_size: 3", [], ["line 2", "'vocab_size'", "tokenizer"]),
        ("model:\n  pad_token_id: 3", [], ["line 2", "tokenizer"]),
        ("model:\n  hidden_size: big", [], ["line 2", "hidden_size", "int", "'big'"]),
        ("model:\n  tie_word_embeddings: 7", [], ["line 2", "bool"]),
        ("model:\n  norm_position: middle", [], ["line 2", "post", "pre", "'middle'"]),
        ("model:\n  preset: tinny", [], ["line 2", "'tinny'", "did you mean 'tiny'"]),
        ("model:\n  preset: vast", [], ["line 2", "'vast'", "choose one of tiny, "]),
        ("modle:\n  preset: tiny", [], ["line 1", "'modle'", "did you mean 'model'"]),
        ("model:\n  hidden_size: 129", [], ["recipe.yaml", "hidden_size=129", "num_attention_heads=8"]),
        ("model: 3", [], ["line 1", "key: value"]),
        ("hidden_size: 3", [], ["line 1", "'hidden_size'", "--model.hidden_size"]),
        ("- seed", [], ["line 1", "key: value"]),
        ("seed: [1", [], ["recipe.yaml, line"]),
        ("output_dir: &a [b, b]\nseed: [*a, *a]", [], ["recipe.yaml, line 2", "aliases"]),
        ("seed: " + "[" * 5000, [], ["recipe.yaml", "brackets"]),
        ("eval_strategy: stepps", [], ["line 1", "eval_strategy", "'stepps'", "steps"]),
        ("", ["--leaning_rate", "3"], ["--leaning_rate", "did you mean 'learning_rate'"]),
        ("", ["--model.hidden", "3"], ["--model.hidden", "did you mean 'hidden_size'"]),
        # Abbreviations are refused: a new key could change their meaning.
        ("", ["--learning", "3"], ["--learning", "'learning'"]),
        ("", ["--learning_rate", "fast"], ["--learning_rate", "'fast'"]),
        ("seed: 4", ["--seed", "many"], ["--seed", "'many'"]),
        ("", ["stray"], ["'stray'"]),
        ("save_steps: 3\nload_best_model_at_end: true", [], ["recipe.yaml", "load_best_model_at_end"]),
    ],
)
def test_errors_name_the_line_and_the_nearest_name(tmp_path, text, flags, named):
    with pytest.raises(InputError) as error:
        read(tmp_path, text, *flags)
    for words in named:
        assert words in str(error.value)


def test_a_yaml_that_is_not_utf_8_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "latin1.yaml"
    path.write_bytes("output_dir: señal".encode("latin-1"))
    with pytest.raises(InputError, match="latin1.yaml: not UTF-8"):
        parse(VanillaTransformerConfig, Own, argv=[str(path)])


def test_a_missing_yaml_is_an_error_that_lists_the_others(tmp_path):
    (tmp_path / "quickstart.yaml").touch()
    with pytest.raises(InputError, match=r"no file .*quickstrat.yaml.*choose from .*quickstart.yaml"):
        parse(VanillaTransformerConfig, Own, argv=[str(tmp_path / "quickstrat.yaml")])


def test_help_explains_every_key(capsys):
    with pytest.raises(SystemExit) as end:
        parse(VanillaTransformerConfig, Own, Seq2SeqTrainingArguments, argv=["--help", "all"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert "words" in text and "how many" in text and "d_model" in text
    for name in ("--names", "--count", "--model.hidden_size", "--model.preset", "--learning_rate"):
        assert f"\n  {name} " in text


def test_help_shows_the_keys_that_matter_first(capsys):
    with pytest.raises(SystemExit):
        parse(VanillaTransformerConfig, Own, VanillaTransformerTrainingArguments, argv=["--help"])
    text = capsys.readouterr().out
    assert "--max_steps" in text and "--model.preset" in text and "--help all" in text
    assert "--hub_token" not in text and len(text.splitlines()) < 100


@pytest.mark.parametrize("argv", [["--help"], ["--help", "all"]])
def test_help_hides_what_does_not_apply(capsys, argv):
    keys = VanillaTransformerConfig, Own, VanillaTransformerTrainingArguments
    with pytest.raises(SystemExit):
        parse(*keys, argv=argv, unused=["seed"])
    text = capsys.readouterr().out
    for key in ("seed", "do_eval", "do_predict"):
        assert f"--{key} " not in text
    with pytest.raises(InputError, match="--seed: remove it: it does not apply to this recipe"):
        parse(*keys, argv=["--output_dir", "x", "--seed", "3"], unused=["seed"])


@pytest.mark.parametrize(
    "key, meant",
    [("batch_size", "per_device_train_batch_size"), ("lr", "learning_rate")],
)
def test_names_of_other_programs_are_known(key, meant):
    with pytest.raises(InputError, match=f"unknown key '{key}'; did you mean '{meant}'"):
        parse(VanillaTransformerConfig, VanillaTransformerTrainingArguments, argv=[f"--{key}", "1"])
    with pytest.raises(InputError, match="do_train=false only scores"):
        parse(VanillaTransformerConfig, VanillaTransformerTrainingArguments, argv=["--do_eval", "true"])
