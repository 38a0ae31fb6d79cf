"""What `translate` can ask of the search: diverse outputs, samples, minimum Bayes risk, ensembles."""

import json

import pytest
import torch
from cli_models import call, save_translator
from tiny_translators import TEXTS
from transformers import pipeline

from vanilla_transformer.cli.lines import as_one_line

INPUT = "".join(f"{text}\n" for text in TEXTS)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return [save_translator(root / "first"), save_translator(root / "second", hidden_size=24)]


def translate(*words, code=0):
    result = call("translate", *words, "--quiet", input=INPUT, code=code)
    return [line.split("\t") for line in result.stdout.splitlines()] if code == 0 else result.stderr


def texts_of(outputs):
    return [
        [as_one_line(record["translation_text"]) for record in ([each] if isinstance(each, dict) else each)]
        for each in outputs
    ]


def test_groups_are_those_of_the_pipeline(models):
    pipe = pipeline("translation", model=str(models[0]), device="cpu")
    diverse = {"num_beams": 6, "num_return_sequences": 5, "num_beam_groups": 3, "diversity_penalty": 0.8}
    words = ("--n-best", 5, "--beam-groups", 3, "--diversity-penalty", 0.8)
    assert translate(models[0], *words) == texts_of(pipe(TEXTS, **diverse))
    assert translate(models[0], *words, "--beam", 6) == texts_of(pipe(TEXTS, **diverse))


def test_minimum_bayes_risk_is_that_of_the_pipeline(models):
    pipe = pipeline("translation", model=str(models[0]), device="cpu")
    expected = pipe(TEXTS, num_beams=6, num_return_sequences=6, mbr=True)
    assert translate(models[0], "--mbr", 6) == texts_of(expected)
    result = call(
        "translate",
        models[0],
        *("--mbr", 6, "--format", "jsonl", "--quiet"),
        input="".join(json.dumps({"text": text}) + "\n" for text in TEXTS),
    )
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["utility"] for record in records] == pytest.approx([each["utility"] for each in expected])


@pytest.mark.parametrize("words, options", [(["--n-best", 3], {}), (["--mbr", 3], {"mbr": True}), ([], {})])
def test_samples_are_those_of_the_pipeline(models, words, options):
    pipe = pipeline("translation", model=str(models[0]), device="cpu")
    count = {"num_return_sequences": 3} if words else {}
    torch.manual_seed(0)
    expected = pipe(TEXTS, do_sample=True, num_beams=1, top_k=0, **count, **options)
    torch.manual_seed(0)
    assert translate(models[0], "--sample", *words) == texts_of(expected)


def test_ensembles_are_those_of_the_pipeline(models):
    first, second = map(str, models)
    pipe = pipeline("translation", model=first, ensemble=[second], device="cpu")
    expected = texts_of(pipe(TEXTS))
    assert translate(first, "--ensemble", second) == expected != translate(first)
    precise = translate(first, "--ensemble", first, "--ensemble", first, "--precision", "bf16")
    assert len(precise) == len(TEXTS)


@pytest.mark.parametrize(
    "words, code, message",
    [
        (["--sample", "--beam", 4], 2, "remove --beam and --beam-groups"),
        (["--mbr", 4, "--n-best", 2], 2, "remove --n-best"),
        (["--mbr", 4, "--beam", 2], 2, "--mbr 4 needs --beam 4 or more"),
        (["--beam", 4, "--beam-groups", 3], 2, "--beam 4 must be a multiple of --beam-groups 3"),
        (["--ensemble", "nowhere"], 1, "nowhere"),
    ],
)
def test_options_that_contradict_each_other_are_one_line(models, words, code, message):
    error = translate(models[0], *words, code=code)
    assert message in error and len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "setting",
    [
        *("return_tensors=true", "return_dict_in_generate=true", "output_scores=true", "return_scores=true"),
        *("generation_config=3", "inputs=a", "input_ids=[3]", "decoder_input_ids=3", "streamer=1"),
    ],
)
def test_a_setting_that_is_no_setting_of_texts_is_named(setting, models):
    error = translate(models[0], "--set", setting, code=2)
    assert f"error: --set {setting.split('=')[0]}" in error and len(error.strip().splitlines()) == 1


@pytest.mark.parametrize("setting", ["num_beams=null", "eos_token_id=x", "max_time=x", "terms=3", "forbid=3"])
@pytest.mark.parametrize("format", ["text", "txt"])  # lines, and a document
def test_a_value_of_the_wrong_type_is_named(setting, format, models):
    error = translate(models[0], "--set", setting, "--format", format, code=1)
    name, value = setting.split("=")
    assert name in error and len(error.strip().splitlines()) == 1
    assert value in error or value == "null" and "None" in error
