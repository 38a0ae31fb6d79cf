"""Saved folders hold their code: they load with transformers alone, without this package."""

import json

import clean_process
import pytest
import torch
import transformers
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, pipeline

import vanilla_transformer
from vanilla_transformer import (
    VanillaTransformerConfig,
    VanillaTransformerForCausalLM,
    VanillaTransformerForConditionalGeneration,
    VanillaTransformerForMaskedLM,
    VanillaTransformerForQuestionAnswering,
    VanillaTransformerForSequenceClassification,
    VanillaTransformerForTokenClassification,
    VanillaTransformerModel,
    VanillaTransformerTokenizer,
)
from vanilla_transformer.generation import paper_generation_config

CLASSES = {
    "AutoModel": VanillaTransformerModel,
    "AutoModelForSeq2SeqLM": VanillaTransformerForConditionalGeneration,
    "AutoModelForCausalLM": VanillaTransformerForCausalLM,
    "AutoModelForMaskedLM": VanillaTransformerForMaskedLM,
    "AutoModelForSequenceClassification": VanillaTransformerForSequenceClassification,
    "AutoModelForTokenClassification": VanillaTransformerForTokenClassification,
    "AutoModelForQuestionAnswering": VanillaTransformerForQuestionAnswering,
}
TEXTS = ["A dog runs.", "Two dogs run over the field."]
IDS = [[5, 6, 7, 2]]

IN_A_CLEAN_PROCESS = """
import json
from pathlib import Path
import torch, transformers

root, text, auto_classes = Path(sys.argv[1]), sys.argv[2], sys.argv[4:]
ids = torch.tensor(json.loads(sys.argv[3]))
report = {}
for name in auto_classes:
    model = getattr(transformers, name).from_pretrained(root / name, trust_remote_code=True).eval()
    with torch.no_grad():
        report[name] = {"class": type(model).__name__, "output": model(ids)[0].flatten().tolist()}
    if model.can_generate():
        report[name]["generated"] = model.generate(ids, max_new_tokens=8).tolist()
    model.save_pretrained(root / "again" / name)

folder = root / "AutoModelForSeq2SeqLM"
tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
report["tokenizer"] = {"class": type(tokenizer).__name__, "ids": tokenizer(text)["input_ids"]}
for task in ("translation", "summarization", "text2text-generation"):
    pipe = transformers.pipeline(task, model=str(folder), trust_remote_code=True, device="cpu")
    report[task] = pipe(text)
pipe.save_pretrained(root / "again" / "pipeline")
report["saved"] = transformers.pipeline(
    "translation", model=str(root / "again" / "pipeline"), trust_remote_code=True, device="cpu"
)(text)
try:
    transformers.AutoModelForSeq2SeqLM.from_pretrained(folder)
except ValueError as error:
    report["without trust"] = str(error)
assert "vanilla_transformer" not in sys.modules
print("\\n" + json.dumps(report))
"""


@pytest.fixture(scope="module")
def tokenizer():
    return VanillaTransformerTokenizer.train([TEXTS], vocab_size=280, min_frequency=1, show_progress=False)


@pytest.fixture(scope="module")
def models(tokenizer):
    torch.manual_seed(0)
    config = VanillaTransformerConfig.from_preset("tiny", vocab_size=len(tokenizer), hidden_size=32)
    models = {name: model_class(config).eval() for name, model_class in CLASSES.items()}
    models["AutoModelForSeq2SeqLM"].generation_config = paper_generation_config(config)
    return models


@pytest.fixture(scope="module")
def root(models, tokenizer, tmp_path_factory):
    root = tmp_path_factory.mktemp("folders")
    for name, model in models.items():
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return root


@pytest.fixture(scope="module")
def report(root, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    return clean_process.run(IN_A_CLEAN_PROCESS, home, root, TEXTS[1], json.dumps(IDS), *CLASSES)


@pytest.mark.parametrize("name", CLASSES)
def test_config_names_the_class_of_every_head(root, name):
    config = json.loads((root / name / "config.json").read_text())
    found = {auto_class: reference.split(".")[-1] for auto_class, reference in config["auto_map"].items()}
    expected = {auto_class: model_class.__name__ for auto_class, model_class in CLASSES.items()}
    assert found == {**expected, "AutoConfig": "VanillaTransformerConfig"}
    for reference in config["auto_map"].values():
        assert (root / name / f"{reference.split('.')[0]}.py").is_file()


@pytest.mark.parametrize("name", CLASSES)
def test_every_head_computes_the_same_without_the_package(report, models, name):
    model = models[name]
    assert report[name]["class"] == type(model).__name__
    with torch.no_grad():
        expected = model(torch.tensor(IDS))[0].flatten()
    assert torch.allclose(torch.tensor(report[name]["output"]), expected, atol=1e-6)
    if model.can_generate():
        assert report[name]["generated"] == model.generate(torch.tensor(IDS), max_new_tokens=8).tolist()


def test_the_tokenizer_works_without_the_package(report, tokenizer):
    assert report["tokenizer"] == {"class": type(tokenizer).__name__, "ids": tokenizer(TEXTS[1])["input_ids"]}


@pytest.mark.parametrize("task", ["translation", "summarization", "text2text-generation"])
def test_the_pipelines_work_without_the_package(report, root, task):
    """With the package imported, its own pipelines are used and no trust is needed."""
    pipe = pipeline(task, model=str(root / "AutoModelForSeq2SeqLM"), device="cpu")
    assert type(pipe).__module__ == "vanilla_transformer.pipelines"
    assert report[task] == pipe(TEXTS[1])


def test_a_pipeline_saved_without_the_package_is_complete(report):
    assert report["saved"] == report["translation"]


@pytest.mark.parametrize("name", CLASSES)
def test_a_folder_saved_again_without_the_package_is_complete(report, root, models, name):
    again = root / "again" / name
    assert {path.name for path in again.glob("*.py")} == {
        path.name for path in (root / name).glob("*.py") if not path.name.startswith("tokenization")
    }
    model = CLASSES[name].from_pretrained(again)
    for key, value in model.state_dict().items():
        assert torch.equal(value, models[name].state_dict()[key]), key
    before = json.loads((root / name / "config.json").read_text())
    assert json.loads((again / "config.json").read_text()) == before


def test_loading_without_trust_raises(report):
    assert "trust_remote_code=True" in report["without trust"]


def test_the_imported_package_is_preferred_to_the_code_of_a_folder(root):
    folder = root / "AutoModelForSeq2SeqLM"
    model = AutoModelForSeq2SeqLM.from_pretrained(folder, trust_remote_code=True)
    assert isinstance(model, VanillaTransformerForConditionalGeneration)
    assert isinstance(AutoTokenizer.from_pretrained(folder), VanillaTransformerTokenizer)


def test_each_head_is_registered():
    for auto_class, model_class in CLASSES.items():
        mapping = getattr(transformers, auto_class)._model_mapping
        assert mapping[VanillaTransformerConfig] is model_class
        assert model_class is getattr(vanilla_transformer, model_class.__name__)
