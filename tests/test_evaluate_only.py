"""do_train=false: a saved model is scored on given data, and nothing that was there changes."""

import hashlib
import json
from pathlib import Path

import pytest
import test_language_modeling_recipe
import test_object_detection
import test_recipes
import test_text_classification_recipe
from launch import run_recipe
from transformers import AutoTokenizer

from vanilla_transformer.tasks import InputError


def flags(settings):
    return [f"--{name}={value}" for name, value in settings.items()]


RECIPES = {
    "seq2seq": ("translation", test_recipes.SETTINGS | {"alpha": 1.1, "num_beams": 3}),
    "language_modeling": ("language_modeling", test_language_modeling_recipe.SMALL),
    "text_classification": (
        "text_classification",
        test_text_classification_recipe.SMALL
        | {"max_train_samples": 9000, "max_validation_samples": 30, "max_test_samples": 20},
    ),
    "object_detection": ("object_detection", test_object_detection.SETTINGS),
}
# Keys of the training that a person leaves out to score a model.
OF_TRAINING = (
    "model.",
    "max_train",
    "max_steps",
    "vocab",
    "save",
    "average",
    "eval_",
    "warmup",
    "alpha",
    "num_b",
)


def contents(folder):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in Path(folder).iterdir()
        if path.is_file()
    }


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_saved_model_gets_the_scores_it_had_after_training(recipe, tmp_path, capsys):
    task, settings = RECIPES[recipe]
    quickstart, folder = f"recipes/{task}/quickstart.yaml", tmp_path / "model"
    run_recipe(recipe, quickstart, *flags(settings), "--output_dir", folder)
    before, trained = contents(folder), json.loads((folder / "results.json").read_text())

    again = {key: value for key, value in settings.items() if not key.startswith(OF_TRAINING)}
    words = ["--do_train=false", "--output_dir", folder, "--eval_strategy=no"]
    run_recipe(recipe, quickstart, *flags(again), *words)
    (written,) = folder.glob("results_*.json")
    scored = json.loads(written.read_text())
    assert str(written) in capsys.readouterr().out
    scores = [
        name
        for name in trained
        if name.startswith(("test_", "validation_")) and not name.endswith(("runtime", "second", "time"))
    ]
    assert len(scores) > 3
    for name in scores:
        near = trained[name] if isinstance(trained[name], str) else pytest.approx(trained[name], rel=1e-4)
        assert scored[name] == near, name
    assert scored["data"]["test"] == trained["data"]["test"] and "updates" not in scored
    assert scored["date"] >= trained["date"] and scored["versions"] == trained["versions"]
    assert {name: contents(folder)[name] for name in before} == before


def test_translations_of_another_file_are_scored_as_the_model_was_saved(tmp_path):
    folder, files = tmp_path / "model", [tmp_path / "news.en", tmp_path / "news.es"]
    settings = test_recipes.SETTINGS | {"num_beams": 2, "alpha": 1.3, "max_extra_tokens": 3}
    run_recipe("seq2seq", test_recipes.QUICKSTART, *flags(settings), "--output_dir", folder)
    for file, word in zip(files, ("dog", "perro")):
        file.write_text("".join(f"{word} {number}\n" for number in range(5)))
    before = contents(folder)
    words = ["--source_lang=en", "--target_lang=es", "--do_train=false", "--use_cpu=true"]
    run_recipe("seq2seq", *words, "--output_dir", folder, "--test_file", *files)
    results = json.loads((folder / "results_news.json").read_text())
    assert set(results["data"]["test"]) == {"news.en", "news.es"}
    lines = (folder / "outputs_news" / "translations.jsonl").read_text().splitlines()
    assert [json.loads(line)["source"] for line in lines] == [f"dog {number}" for number in range(5)]
    assert results["test_perplexity"] > 1 and "test_bleu" in results
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for line in map(json.loads, lines):  # an untrained model writes until its limit
        assert len(tokenizer(line["translation"]).input_ids) <= len(tokenizer(line["source"]).input_ids) + 4
    assert {name: contents(folder)[name] for name in before} == before


def test_scores_with_other_settings_or_sides_replace_none(tmp_path):
    folder, files = tmp_path / "model", [tmp_path / "news.en", tmp_path / "news.es"]
    run_recipe("seq2seq", test_recipes.QUICKSTART, *flags(test_recipes.SETTINGS), "--output_dir", folder)
    for file, word in zip(files, ("dog", "perro")):
        file.write_text("".join(f"{word} {number}\n" for number in range(3)))
    words = ["--source_lang=en", "--target_lang=es", "--do_train=false", "--use_cpu=true"]
    words += ["--output_dir", folder, "--max_extra_tokens=2"]
    run_recipe("seq2seq", *words, "--test_file", *files)
    run_recipe("seq2seq", *words, "--test_file", *files, "--num_beams=1")
    run_recipe("seq2seq", *words, "--test_file", *files[::-1])
    run_recipe("seq2seq", *words, "--test_file", *files)  # as the first
    found = [json.loads(path.read_text()) for path in folder.glob("results_news*.json")]
    assert sorted((one["settings"]["num_beams"], list(one["data"]["test"])[0]) for one in found) == [
        *((1, "news.en"), (4, "news.en"), (4, "news.es"))
    ]


def test_the_model_of_another_recipe_is_an_error(tmp_path):
    folder = tmp_path / "model"
    run_recipe("seq2seq", test_recipes.QUICKSTART, *flags(test_recipes.SETTINGS), "--output_dir", folder)
    (tmp_path / "test.jsonl").write_text('{"text": "a", "label": "b"}\n')
    words = ["--do_train=false", "--output_dir", folder, "--test_file", tmp_path / "test.jsonl"]
    for recipe in ("text_classification", "language_modeling", "token_classification"):
        with pytest.raises(InputError, match="holds a VanillaTransformerForConditionalGeneration, but this"):
            run_recipe(recipe, *words)


def test_classes_are_those_of_the_model(tmp_path):
    train, test = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    rows = [{"text": f"{word} {number}", "label": word} for number in range(20) for word in ("b", "a", "c")]
    train.write_text("".join(json.dumps(row) + "\n" for row in rows))
    test.write_text("".join(json.dumps(row) + "\n" for row in rows if row["label"] == "c"))
    settings = {**test_text_classification_recipe.SMALL, "eval_strategy": "no"}
    folder = tmp_path / "model"
    run_recipe("text_classification", *flags(settings), "--train_file", train, "--output_dir", folder)
    words = ["--do_train=false", "--use_cpu=true", "--output_dir", folder, "--test_file", test]
    run_recipe("text_classification", *words)
    report = json.loads((folder / "outputs_test" / "classes.json").read_text())
    assert list(report["classes"]) == ["a", "b", "c"] and report["classes"]["c"]["examples"] == 20
    test.write_text('{"text": "d 1", "label": "d"}\n')
    with pytest.raises(InputError, match="'d'"):
        run_recipe("text_classification", *words)


def test_scoring_needs_data_and_training_needs_training_data(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="there are no data"):
        run_recipe("text_classification", "--do_train=false", "--output_dir", tmp_path)
    with pytest.raises(InputError, match="there are no training data; give train_file, or do_train=false"):
        run_recipe("text_classification", "--test_file=x.jsonl", "--output_dir", tmp_path / "new")
    assert not (tmp_path / "new").exists()
