"""The card of a trained model has the given metadata and examples that run, and leaks nothing."""

import json
import re

import clean_process
import pytest
from huggingface_hub import ModelCard, metadata_load
from huggingface_hub.repocard_data import model_index_to_eval_results
from tiny_translators import marian
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    MarianConfig,
    MarianMTModel,
    SchedulerType,
)

from vanilla_transformer import (
    VanillaTransformerConfig,
    VanillaTransformerForConditionalGeneration,
    VanillaTransformerTokenizer,
)
from vanilla_transformer.extras import REPOSITORY
from vanilla_transformer.model_card import plain, write_model_card

SIGNATURE = "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0"
RESULTS = {
    "validation": {"bleu": 31.25, "bleu_signature": SIGNATURE, "loss": 1.5, "runtime": 12.0},
    "test": {"bleu": 30.5, "bleu_signature": SIGNATURE, "chrf": 55.75, "samples_per_second": 7.0},
}


@pytest.fixture(scope="module")
def model():
    texts = ["A dog runs over the field.", "Un perro corre."]
    tokenizer = VanillaTransformerTokenizer.train(
        [texts], vocab_size=280, language_tags=["es", "de"], min_frequency=1, show_progress=False
    )
    config = VanillaTransformerConfig.from_preset("tiny", vocab_size=len(tokenizer), hidden_size=32)
    return VanillaTransformerForConditionalGeneration(config), tokenizer


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("a model")
    for part in model:
        part.save_pretrained(folder)
    write_model_card(
        folder,
        task="translation",
        data="the Bible in English and Spanish: 29,000 verses, public domain",
        results=RESULTS,
        settings={"updates": 1000, "warmup_steps": 400, "label smoothing": 0.1},
        languages=["en", "es"],
        command="python recipes/seq2seq.py recipes/translation/quickstart.yaml",
        example='He said "a dog\'s life" é.',
        options={"tgt_lang": "es", "max_new_tokens": 5},
        license="cc0-1.0",
        datasets=["someone/bible"],
        tags=["bible"],
        limits=["It writes the Spanish of 1909."],
    )
    return folder


def test_the_metadata_are_the_arguments(folder):
    metadata = metadata_load(folder / "README.md")
    assert metadata["language"] == ["en", "es"]
    assert metadata["license"] == "cc0-1.0"
    assert metadata["library_name"] == "transformers"
    assert metadata["pipeline_tag"] == "translation"
    assert metadata["datasets"] == ["someone/bible"]
    assert metadata["tags"] == ["vanilla-transformer", "bible"]
    assert metadata["metrics"] == ["bleu", "loss", "chrf"]


def test_the_results_are_the_arguments(folder):
    _, results = model_index_to_eval_results(metadata_load(folder / "README.md")["model-index"])
    read = {(result.dataset_split, result.metric_type): result for result in results}
    given = {
        (split, name): value
        for split, metrics in RESULTS.items()
        for name, value in metrics.items()
        if name in ("bleu", "chrf", "loss")
    }
    assert {key: result.metric_value for key, result in read.items()} == given
    assert read["test", "bleu"].metric_args == {"signature": SIGNATURE}
    text = ModelCard.load(folder / "README.md").text
    assert f"| someone/bible, test | BLEU | 30.5 | {SIGNATURE.replace('|', chr(92) + '|')} |" in text


def test_the_text_shows_the_arguments(folder, model):
    text = ModelCard.load(folder / "README.md").text
    for said in (
        "29,000 verses",
        "recipes/translation/quickstart.yaml",
        "| warmup_steps | 400 |",
        "4 encoder layers and 4 decoder layers",
        f"{model[0].num_parameters():,} parameters",
        "It writes the Spanish of 1909.",
        "1024 tokens",
    ):
        assert said in text


def test_its_examples_run(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder.parent)  # the card has no absolute path
    text = ModelCard.load(folder / "README.md").text
    with_trust, with_package = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert "trust_remote_code=True" in with_trust and "trust" not in with_package
    result = "import json; result = json.dumps("
    namespace = {}
    exec(with_package.replace("print(", result), namespace)
    script = (
        f"import os; os.chdir({str(folder.parent)!r})\n"
        + with_trust.replace("print(", result)
        + 'print("\\n" + result)'
    )
    absent = clean_process.run(script, tmp_path)
    assert absent == json.loads(namespace["result"])
    assert list(absent[0]) == ["translation_text"]


def test_a_model_of_another_kind_and_without_scores(tmp_path):
    config = MarianConfig(vocab_size=30, d_model=16, encoder_layers=1, decoder_layers=1, pad_token_id=0)
    MarianMTModel(config).save_pretrained(tmp_path)
    path = write_model_card(
        tmp_path, task="text2text-generation", data="some", results={}, settings={}, model="me/mine"
    )
    metadata = metadata_load(path)
    assert metadata["pipeline_tag"] == "text2text-generation" and "model-index" not in metadata
    text = path.read_text()
    assert "not scored" in text and 'model="me/mine"' in text
    assert "None" not in text and "{" not in text.split("---")[2]


@pytest.mark.parametrize("task", ["translation", "summarization"])
def test_the_card_of_a_model_of_transformers_promises_no_code_and_its_example_runs(
    tmp_path, monkeypatch, task
):
    for part in marian():
        part.save_pretrained(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    path = write_model_card(
        tmp_path / "mine", task=task, data="some", results={}, settings={"pretrained": "/home/ada/opus"},
        example="the dog", options={"max_new_tokens": 4},
    )  # fmt: skip
    text = path.read_text()
    assert "trust_remote_code" not in text and "own Python code" not in text and "from scratch" not in text
    assert "type marian, fine-tuned from opus with" in text and REPOSITORY in text
    (example,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    exec(example, {})


def test_the_card_of_a_classifier_of_transformers_needs_no_package(tmp_path):
    sizes = dict(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=30
    )
    BertForSequenceClassification(BertConfig(**sizes)).save_pretrained(tmp_path)
    text = write_model_card(
        tmp_path, task="text-classification", data="some", results={}, settings={}
    ).read_text()
    assert "type bert, trained with" in text and "pip install" not in text
    assert 'pipeline("text-classification"' in text and "import vanilla_transformer" not in text


def test_a_folder_without_a_model_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "config.json"))):
        write_model_card(tmp_path, task="translation", data="", results={}, settings={})


def test_it_accepts_results_json(folder, tmp_path):
    results = json.loads(json.dumps(RESULTS))
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    path = write_model_card(tmp_path, task="translation", data="some", results=results, settings={})
    _, read = model_index_to_eval_results(metadata_load(path)["model-index"])
    assert [result.metric_value for result in read] == [31.25, 1.5, 30.5, 55.75]


def test_no_absolute_path_and_no_secret(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    token = "hf_" + "a1B2" * 8
    path = write_model_card(
        tmp_path,
        task="translation",
        data=f"{tmp_path}/data/a.parquet and /home/me/b.parquet; see https://example.org/data",
        results={},
        settings={"init": "/home/me/first", "lr_scheduler_type": SchedulerType.LINEAR, "tokens": None},
        command=f"python /home/me/seq2seq.py {tmp_path}/my.yaml --train_file=/home/me/c.en --hub_token "
        f"secret1 --token=secret2 --hub_tok secret3 --other {token} --max_source_tokens 5",
    )
    text = path.read_text()
    assert str(tmp_path) not in text and "/home/me" not in text
    assert "secret" not in text and token not in text
    assert "Data: data/a.parquet and b.parquet; see https://example.org/data" in text
    assert "python seq2seq.py my.yaml --train_file=c.en --hub_token REDACTED" in text
    assert "--max_source_tokens 5" in text
    assert "| lr_scheduler_type | linear |" in text and "| tokens |" not in text


@pytest.mark.parametrize(
    "value, shown",
    [(SchedulerType.LINEAR, "linear"), (True, "true"), (200.0, "200"), (14.16982, "14.17"), (3, "3")],
)
def test_values_are_plain(value, shown):
    assert plain(value) == shown


def test_the_card_installs_from_the_repository(folder):
    text = (folder / "README.md").read_text()
    assert f"pip install 'vanilla-transformer @ git+{REPOSITORY}'" in text
    assert "pip install vanilla-transformer" not in text
