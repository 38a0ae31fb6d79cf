"""Token classification: tags, files, tokens, loss and scores, and the recipe from data to pipeline()."""

import json

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from launch import launch, run_recipe
from seqeval.metrics import f1_score
from torch.nn import functional as F
from transformers import EvalPrediction, pipeline

from vanilla_transformer import (
    VanillaTransformerConfig,
    VanillaTransformerForMaskedLM,
    VanillaTransformerForTokenClassification,
    VanillaTransformerTokenizer,
)
from vanilla_transformer.corpora import names as bible
from vanilla_transformer.metrics import load_metric
from vanilla_transformer.tasks.entities import entity_metrics, entity_texts, iob2, spans, tags_of
from vanilla_transformer.tasks.language_modeling import for_language_modeling
from vanilla_transformer.tasks.settings import InputError
from vanilla_transformer.tasks.token_classification import (
    TokenClassificationArguments,
    encode_splits,
    load_splits,
    token_loss,
)

QUICKSTART = "recipes/token_classification/quickstart.yaml"
WORDS = [["Ada", "Lovelace", "met", "Bob", "in", "New", "York", "."], ["They", "talked"]]
TAGS = [["B-PER", "I-PER", "O", "B-PER", "O", "B-LOC", "I-LOC", "O"], ["O", "O"]]


def jsonl(path, words=WORDS, tags=TAGS, copies=1):
    rows = [{"tokens": sentence, "ner_tags": its_tags} for sentence, its_tags in zip(words, tags)] * copies
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [str(path)]


def load(train, **settings):
    return load_splits(TokenClassificationArguments(train_file=train, **settings))


def a_tokenizer():
    return VanillaTransformerTokenizer.train([[" ".join(s) for s in WORDS]], 290, show_progress=False)


# Tags


@pytest.mark.parametrize(
    "tags, expected",
    [
        ("B-P I-P O B-P B-P I-L", "B-P I-P O B-P B-P B-L"),  # IOB2, but for the last
        ("I-P I-P O I-P B-P I-L", "B-P I-P O B-P B-P B-L"),  # IOB1
        ("B-P E-P O S-P S-P S-L", "B-P I-P O B-P B-P B-L"),  # BIOES
        ("B-P L-P O U-P U-P U-L", "B-P I-P O B-P B-P B-L"),  # BILOU
        ("B-P I-P E-P I-P", "B-P I-P I-P B-P"),
    ],
)
def test_every_scheme_becomes_iob2(tags, expected):
    converted = iob2(tags.split())
    assert converted == expected.split()
    assert iob2(converted) == converted


def test_entities_are_those_of_seqeval():
    random = np.random.default_rng(0)
    guesses, truths = random.choice(["O", "B-A", "I-A", "B-B", "I-B"], (2, 40, 9)).tolist()
    spans_of = [
        {(row, *span) for row, tags in enumerate(side) for span in spans(tags)} for side in (guesses, truths)
    ]
    f1 = 2 * len(spans_of[0] & spans_of[1]) / (len(spans_of[0]) + len(spans_of[1]))
    assert 0 < f1 < 1
    assert f1 == pytest.approx(f1_score(truths, guesses))
    scores = load_metric("seqeval").compute(predictions=guesses, references=truths)
    assert scores["overall_f1"] == pytest.approx(f1)
    assert scores["A"]["number"] + scores["B"]["number"] == len(spans_of[1])
    right = sum(a == b for pair in zip(guesses, truths) for a, b in zip(*pair))
    assert scores["overall_accuracy"] == pytest.approx(right / 360)


def test_seqeval_without_entities_and_with_wrong_lengths():
    metric = load_metric("seqeval")
    assert metric.compute(predictions=[["O"]], references=[["O"]]) == {
        **{"overall_precision": 0.0, "overall_recall": 0.0, "overall_f1": 0.0},
        "overall_accuracy": 1.0,
    }
    with pytest.raises(ValueError, match="sentence 1 has 1 predictions but 2 references"):
        metric.compute(predictions=[["O"], ["O"]], references=[["O"], ["O", "O"]])
    with pytest.raises(ValueError, match="nothing to score"):
        metric.compute(predictions=[[]], references=[[]])


# Reading


def test_json_lines_parquet_and_conll_files_hold_the_same(tmp_path):
    lines = load(jsonl(tmp_path / "a.jsonl"))["train"]
    names = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    assert lines.features["tags"].feature.names == names
    assert lines["words"][:] == WORDS and tags_of(lines) == TAGS
    features = Features({"w": List(Value("string")), "t": List(ClassLabel(names=[*names[::-1], "I-X"]))})
    Dataset.from_dict({"w": WORDS, "t": TAGS}, features=features).to_parquet(tmp_path / "a.parquet")
    parquet = load([str(tmp_path / "a.parquet")], tokens_column="w", tags_column="t")["train"]
    text = "-DOCSTART- -X- O O\n\n" + "\n\n\n".join(
        "\n".join(f"{word} NN I-NP {tag}" for word, tag in zip(*pair)) for pair in zip(WORDS, TAGS)
    )
    (tmp_path / "a.conll").write_text(text)
    (tmp_path / "b.txt").write_text(text.replace(" ", "\t") + "\n")
    conll, tabs = load([str(tmp_path / "a.conll")])["train"], load([str(tmp_path / "b.txt")])["train"]
    assert lines.to_dict() == parquet.to_dict() == conll.to_dict() == tabs.to_dict()


def test_other_schemes_and_empty_sentences_are_logged(tmp_path, caplog):
    tags = [[tag.replace("B-", "I-") for tag in sentence] for sentence in TAGS]
    splits = load(jsonl(tmp_path / "a.jsonl", [*WORDS, []], [*tags, []]))
    assert tags_of(splits["train"]) == TAGS
    assert "the prefixes I-, as in IOB1: changed 3 of 10 tags to IOB2" in caplog.text
    assert "skipped 1 of 3 sentences without words" in caplog.text
    load(jsonl(tmp_path / "b.jsonl", [["Ada", "Ada", "Bo"]], [["S-PER", "B-PER", "E-PER"]]))
    assert "the prefixes B-, E-, S-, as in BIOES or BILOU: changed 2 of 3 tags to IOB2" in caplog.text


@pytest.mark.parametrize(
    "words, tags, message",
    [
        ([["a", "b"]], [["O"]], "row 1: 2 words, but 1 tags"),
        ([["a"]], [["NN"]], "the tag 'NN' of 'a' is neither O nor a prefix"),
        ([["a"]], [["O"]], "no sentence has an entity"),
        ([["a"]], [[1]], r"tags_column 'ner_tags' holds 1, .*declare a ClassLabel"),
        (["a"], [["O"]], "tokens_column 'tokens' holds 'a', and not a list"),
    ],
)
def test_bad_data_is_an_error(words, tags, message, tmp_path):
    with pytest.raises(InputError, match=message):
        load(jsonl(tmp_path / "a.jsonl", words, tags))


def test_bad_files_and_settings_are_errors(tmp_path):
    train = jsonl(tmp_path / "a.jsonl")
    with pytest.raises(InputError, match="the type 'LOK' .*did you mean 'LOC'"):
        load(train, validation_file=jsonl(tmp_path / "b.jsonl", [["Rom"]], [["B-LOK"]]))
    with pytest.raises(InputError, match="has no column 'token'; did you mean 'tokens'"):
        load(train, tokens_column="token")
    (tmp_path / "a.conll").write_text("Ada B-PER\nmet\n")
    with pytest.raises(InputError, match="a.conll, line 2: expected a word and its tag, .*'met'"):
        load([str(tmp_path / "a.conll")])
    for settings in ({"streaming": True}, {"max_length": 2}, {"tags_column": "tokens"}):
        with pytest.raises(InputError, match=next(iter(settings))):
            TokenClassificationArguments(train_file=train, **settings)


# Tokens, loss, scores


def test_the_first_piece_of_a_word_has_its_tag(tmp_path):
    files = jsonl(tmp_path / "a.jsonl")
    splits, tokenizer = load(files, validation_file=files), a_tokenizer()
    encoded = encode_splits(splits, tokenizer, TokenClassificationArguments(train_file=files), 512)
    for row, tags in zip(encoded["train"], splits["train"]["tags"]):
        assert [label for label in row["labels"] if label != -100] == tags
        pieces, texts = iter(zip(row["input_ids"], row["labels"])), []
        for id, label in pieces:
            texts = [*texts, [id]] if label != -100 else [*texts[:-1], [*texts[-1], id]]
        words = [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in texts]
        assert words == splits["train"]["words"][encoded["train"]["labels"][:].index(row["labels"])]


def test_words_that_are_cut_off_count_as_errors(tmp_path, caplog):
    files = jsonl(tmp_path / "a.jsonl", copies=2)
    data = TokenClassificationArguments(train_file=files, validation_file=files, max_length=6)
    splits = load_splits(data)
    encoded = encode_splits(splits, a_tokenizer(), data, 512)
    assert "validation: cut 4 of 4 sentences to 6 tokens; the cut words count as O" in caplog.text
    names, split = splits["train"].features["tags"].feature.names, encoded["validation"]
    labels = np.array(split["labels"][:])
    perfect = EvalPrediction(predictions=np.eye(5)[labels.clip(0)], label_ids=labels)
    assert entity_metrics(names)(perfect)["f1"] == 1
    scores = entity_metrics(names, split)(perfect)
    assert scores["recall"] == pytest.approx(1 / 3) and scores["f1_LOC"] == 0  # only Ada Lovelace is left


def test_f1_of_seen_and_unseen_entities(tmp_path):
    files = jsonl(tmp_path / "a.jsonl")
    words, tags = [["Ada", "met", "Eve", "in", "York"]], [["B-PER", "O", "B-PER", "O", "B-LOC"]]
    held_out = jsonl(tmp_path / "b.jsonl", words, tags)
    data = TokenClassificationArguments(
        train_file=jsonl(tmp_path / "c.jsonl", [["Ada"]], [["B-PER"]]) + files
    )
    data.validation_file = held_out
    splits = load_splits(data)
    assert entity_texts(splits["train"]) == {"Ada", "Ada Lovelace", "Bob", "New York"}
    split = encode_splits(splits, a_tokenizer(), data, 512)["validation"]
    names = splits["train"].features["tags"].feature.names
    guessed = iter([names.index(tag) for tag in ("B-PER", "B-PER", "B-LOC", "O", "B-LOC")])
    labels = np.array(split["labels"][:])
    ids = np.array([[0 if label == -100 else next(guessed) for label in labels[0]]])
    compute = entity_metrics(names, split, entity_texts(splits["train"]))
    scores = compute(EvalPrediction(predictions=np.eye(5)[ids], label_ids=labels))
    assert scores["f1_seen"] == 1  # Ada
    assert scores["f1_unseen"] == pytest.approx(2 * 1 / (3 + 2))  # met, Eve, York against Eve, York
    assert scores["f1"] == pytest.approx(2 * 2 / (4 + 3))


@pytest.mark.parametrize("r_drop", [0.0, 2.0])
def test_accumulated_loss_is_that_of_the_large_batch(r_drop):
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 5, 3), torch.randint(0, 3, (4, 5))
    labels[1, 2:], labels[2, 0] = -100, -100
    compute, items = token_loss(smoothing=0.1, r_drop=r_drop), (labels != -100).sum()

    def loss(rows, count=None):
        passes = [logits[rows], logits.flip(-1)[rows]] if r_drop else [logits[rows]]
        return compute({"logits": torch.cat(passes)}, labels[rows].repeat(len(passes), 1), count)

    parts = loss(slice(0, 1), items) + loss(slice(1, 4), items)
    torch.testing.assert_close(parts, loss(slice(0, 4)))
    if not r_drop:
        smoothed = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=0.1)
        torch.testing.assert_close(parts, smoothed)


# The shipped names


def test_names_of_the_bible_are_labelled_by_the_list():
    text = "Jesus Christ’s mother went to Mount Sinai with Simon Peter, and to Sinai."
    words = bible.words_of(text)
    assert words[:3] == ["Jesus", "Christ", "’s"] and "".join(words) == text.replace(" ", "")
    assert " ".join(bible.tags_of(words)) == "B-PER I-PER O O O O B-LOC I-LOC O B-PER I-PER O O O B-LOC O"


def test_training_never_sees_a_held_out_name():
    splits, held_out = bible.load_names(), bible.held_out_names()
    chapters = {name: {verse.rpartition(":")[0] for verse in rows["verse"]} for name, rows in splits.items()}
    assert not chapters["train"] & (chapters["validation"] | chapters["test"])
    assert not chapters["validation"] & chapters["test"]
    assert held_out.isdisjoint(word for words in splits["train"]["tokens"] for word in words)
    held_out_texts = {tuple(words) for name in ("validation", "test") for words in splits[name]["tokens"]}
    assert held_out_texts.isdisjoint(map(tuple, splits["train"]["tokens"]))
    assert sum(word in held_out for words in splits["test"]["tokens"] for word in words) > 200


# The recipe

SMALL = {
    **{"vocab_size": 300, "max_steps": 2, "max_source_tokens": 500, "use_cpu": True},
    **{"model.hidden_size": 16, "model.intermediate_size": 32, "model.num_attention_heads": 2},
    **{"model.encoder_layers": 1, "eval_strategy": "steps", "eval_steps": 1, "logging_steps": 1},
    **{"save_strategy": "steps", "save_steps": 1},
}


def run(*words, **settings):
    flags = [f"--{name}={value}" for name, value in {**SMALL, **settings}.items()]
    run_recipe("token_classification", *words, *flags)


def test_quickstart_from_data_to_pipeline(tmp_path, capsys):
    folder = tmp_path / "model"
    few = dict(max_train_samples=3000, max_validation_samples=30, max_test_samples=300)
    run(QUICKSTART, **few, output_dir=folder)
    results = json.loads((folder / "results.json").read_text())
    assert results["updates"] == 2 and results["validation_loss"] > 0
    names = ("f1", "f1_seen", "f1_unseen", "precision", "recall", "token_accuracy")
    assert {f"test_{name}" for name in names} <= results.keys()
    assert "test_perplexity" not in results

    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    truth = bible.load_names()["test"]
    assert [line["words"] for line in lines] == truth["tokens"][:300]
    f1 = f1_score([line["labels"] for line in lines], [line["predicted"] for line in lines])
    assert results["test_f1"] == pytest.approx(f1)
    card = (folder / "README.md").read_text()
    assert "token-classification" in card and "bible-names" in card
    assert f'pipeline("token-classification", model="{folder}")' in capsys.readouterr().out
    run(QUICKSTART, **few, output_dir=folder, max_steps=3, resume_from_checkpoint="true")
    assert json.loads((folder / "results.json").read_text())["updates"] == 3


def test_a_users_file_is_learned_and_the_pipeline_finds_the_same(tmp_path):
    files = jsonl(tmp_path / "a.jsonl", copies=8)
    settings = {"max_steps": 60, "learning_rate": 0.01, "lr_scheduler_type": "constant", "warmup_steps": 0}
    folder = tmp_path / "model"
    mine = {"train_file": files[0], "validation_file": files[0], "eval_strategy": "no", "save_strategy": "no"}
    run(**settings, **mine, output_dir=folder, **{"model.dropout": 0.0})
    results = json.loads((folder / "results.json").read_text())
    assert results["validation_f1"] == 1
    assert json.loads((folder / "entities.json").read_text())["PER"]["number"] == 16
    tagger = pipeline("token-classification", model=str(folder))
    assert set(tagger.model.config.id2label.values()) == {"O", "B-PER", "I-PER", "B-LOC", "I-LOC"}
    assert {entity["entity"] for entity in tagger(" ".join(WORDS[0]))} <= {"B-PER", "I-PER", "B-LOC", "I-LOC"}
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    for line in lines[:2]:
        words = tagger.tokenizer(line["words"], is_split_into_words=True).word_ids()
        (pieces,) = tagger([line["words"]], is_split_into_words=True, ignore_labels=[])
        first = [words.index(word) for word in range(len(line["words"]))]
        assert [pieces[place]["entity"] for place in first] == line["predicted"] == line["labels"]


def test_the_look_up_knows_the_training_entities_and_no_others(tmp_path):
    train = jsonl(tmp_path / "a.jsonl")[0]
    test = jsonl(tmp_path / "b.jsonl", [["New", "York", "met", "Eve"]], [["B-LOC", "I-LOC", "O", "B-PER"]])[0]
    files = ["--train_file", train, "--validation_file", train, "--test_file", test]
    done = launch("benchmarks/baselines/entity_lookup.py", *files, "--output_dir", tmp_path / "unused")
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads(done.stdout)
    assert results["validation_f1"] == results["test_f1_seen"] == results["test_precision"] == 1
    assert results["test_f1_unseen"] == 0 and results["test_recall"] == 0.5


def test_training_starts_from_a_pretrained_encoder(tmp_path):
    tokenizer = for_language_modeling(a_tokenizer(), "masked")
    sizes = dict(hidden_size=16, intermediate_size=32, num_attention_heads=2, encoder_layers=1)
    encoder = VanillaTransformerForMaskedLM(VanillaTransformerConfig(vocab_size=len(tokenizer), **sizes))
    for part in (encoder, tokenizer):
        part.save_pretrained(tmp_path / "encoder")
    file, folder = jsonl(tmp_path / "a.jsonl")[0], tmp_path / "model"
    rate = {"learning_rate": 1e-9, "lr_scheduler_type": "constant", "warmup_steps": 0}
    mine = {"train_file": file, "validation_file": file, "pretrained": tmp_path / "encoder"}
    run(**mine, **rate, output_dir=folder)
    model = VanillaTransformerForTokenClassification.from_pretrained(folder)
    torch.testing.assert_close(model.get_input_embeddings().weight, encoder.get_input_embeddings().weight)


@pytest.mark.slow
def test_two_processes_score_every_sentence_once(tmp_path):
    file = jsonl(tmp_path / "a.jsonl", copies=8)[0]
    few = jsonl(tmp_path / "b.jsonl", [*WORDS, *WORDS, WORDS[0]], [*TAGS, *TAGS, TAGS[0]])[0]
    settings = {**SMALL, "train_file": file, "validation_file": few, "per_device_eval_batch_size": 2}
    flags = [f"--{name}={value}" for name, value in {**settings, "output_dir": tmp_path / "model"}.items()]
    done = launch("recipes/token_classification.py", *flags, processes=2)
    assert done.returncode == 0, done.stderr[-4000:]
    lines = [json.loads(line) for line in (tmp_path / "model" / "predictions.jsonl").read_text().splitlines()]
    assert [line["words"] for line in lines] == [*WORDS, *WORDS, WORDS[0]]
    f1 = f1_score([line["labels"] for line in lines], [line["predicted"] for line in lines])
    results = json.loads((tmp_path / "model" / "results.json").read_text())
    assert results["validation_f1"] == pytest.approx(f1)
    right = [a == b for line in lines for a, b in zip(line["labels"], line["predicted"])]
    assert results["validation_token_accuracy"] == pytest.approx(np.mean(right))
