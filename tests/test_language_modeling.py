"""Language modelling: each token is predicted once, blocks and masks are what they say, the recipe's path."""

import json
import logging
import math
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import load_recipe
from datasets import Dataset, IterableDataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    pipeline,
)
from transformers.pipelines.pt_utils import KeyDataset

from vanilla_transformer import (
    VanillaTransformerConfig,
    VanillaTransformerForCausalLM,
    VanillaTransformerTokenizer,
)
from vanilla_transformer.tasks.language_modeling import (
    LanguageModelingArguments,
    MaskedBlocks,
    NoisyBlocks,
    blocks,
    encode_texts,
    for_language_modeling,
    load_texts,
    text_scores,
)
from vanilla_transformer.tasks.settings import InputError
from vanilla_transformer.training import (
    Seq2SeqCollator,
    VanillaTransformerTrainer,
    VanillaTransformerTrainingArguments,
)

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes" / "language_modeling").glob("*.yaml"))
TEXTS = [
    "In the beginning God created the heavens and the earth.",
    "And God said",
    "a",
    "light <mask> </s> day",
]
SIZES = dict(hidden_size=16, intermediate_size=32, num_attention_heads=2, encoder_layers=0, decoder_layers=1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def tokenizer_for(objective):
    trained = VanillaTransformerTokenizer.train([TEXTS * 2], 290, show_progress=False)
    return for_language_modeling(trained, objective)


def arguments(**settings):
    return LanguageModelingArguments(**{"train_file": ["train.txt"], "block_size": 8, **settings})


def splits(texts=TEXTS):
    return {name: Dataset.from_dict({"text": texts}) for name in ("train", "validation")}


def predicted(split):
    """The tokens that count, in order: labels but the first of each block, which nothing comes before."""
    return [label for labels in split["labels"] for label in labels[1:] if label != -100]


# Blocks


@pytest.mark.parametrize("pack", [True, False], ids=["packed", "documents"])
@pytest.mark.parametrize("stride", [1, 3, 7])
def test_every_token_is_predicted_once(stride, pack):
    tokenizer = tokenizer_for("causal")
    data = arguments(stride=stride, pack_documents=pack)
    encoded = encode_texts(splits(), tokenizer, data)
    texts = tokenizer(TEXTS, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    expected = list(chain.from_iterable([*ids, tokenizer.eos_token_id] for ids in texts))
    for name in ("train", "validation"):
        assert predicted(encoded[name]) == expected
        assert max(map(len, encoded[name]["input_ids"])) <= data.block_size
    if pack:
        lengths = [len(block) for block in encoded["validation"]["input_ids"]]
        assert set(lengths[:-1]) <= {data.block_size}


def test_a_block_scores_stride_tokens_after_the_context_of_the_rest():
    stream = list(range(20))
    windows = list(blocks(stream, 8, 3))
    assert windows[0] == (stream[:8], 0)
    for number, (window, known) in enumerate(windows[1:], start=1):
        assert window == stream[3 * number : 3 * number + 8] and known == 5
    assert windows[-1][0][-1] == stream[-1] and len(windows[-1][0]) > 5
    assert list(blocks([1, 2], 8, 7)) == [([1, 2], 0)]


def test_the_stride_changes_no_count_but_the_context():
    """Of a model that sees no further than a token back, the loss is the same with any stride."""
    tokenizer = tokenizer_for("causal")
    losses = []
    for stride in (1, 4, 7):
        data = arguments(stride=stride)
        encoded = encode_texts(splits(), tokenizer, data)["validation"]
        counts = {}
        for ids, labels in zip(encoded["input_ids"], encoded["labels"]):
            for before, label in zip(ids, labels[1:]):
                if label != -100:
                    counts[before, label] = counts.get((before, label), 0) + 1
        losses.append(counts)
    assert losses[0] == losses[1] == losses[2]


def test_streams_and_whole_data_give_the_same_blocks(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*TEXTS, ""]))
    tokenizer = tokenizer_for("causal")
    found = []
    for streaming in (False, True):
        data = arguments(train_file=[str(path)], streaming=streaming)
        train = encode_texts(load_texts(data), tokenizer, data)["train"]
        assert isinstance(train, IterableDataset if streaming else Dataset)
        found.append([(row["input_ids"], row["labels"]) for row in train])
    assert found[0] == found[1]


# Texts


def test_a_text_file_is_a_document(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("one line\n\nanother\n")
    assert load_texts(arguments(train_file=[str(path)]))["train"]["text"][:] == ["one line\n\nanother"]
    streamed = load_texts(arguments(train_file=[str(path)], streaming=True))["train"]
    assert [row["text"] for row in streamed] == ["one line\n\nanother"]


def test_blank_rows_are_skipped_and_counted(tmp_path, caplog):
    path = tmp_path / "train.jsonl"
    rows = [{"body": "one \n"}, {"body": " "}, {"body": None}, {"body": "two"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with caplog.at_level(logging.WARNING):
        train = load_texts(arguments(train_file=[str(path)], text_column="body"))["train"]
    assert train["text"][:] == ["one ", "two"]
    assert "skipped 2 of 4 rows without text" in caplog.text


@pytest.mark.parametrize(
    "rows, settings, message",
    [
        ([{"txt": "a"}, {"txt": "b"}], {}, r"no column 'text'; did you mean 'txt'"),
        ([{"text": 5}], {}, "holds int, not text: 5"),
        ([{"text": ""}], {}, "there is no text in it"),
        ([], {"block_size": 1}, "block_size=1"),
        ([], {"stride": 8}, "stride=8 .* below block_size=8"),
        ([], {"stride": 2, "objective": "masked"}, "no part in objective=masked"),
        ([], {"mask_probability": 1.0}, "mask_probability=1.0"),
        ([], {"streaming": True, "objective": "masked"}, "streaming and objective=masked"),
        ([], {"streaming": True, "objective": "denoising"}, "streaming and objective=denoising"),
        ([], {"pack_documents": True, "objective": "denoising"}, "pack_documents=True has no part"),
        ([], {"deletion_probability": 0.0}, "deletion_probability=0.0"),
        ([], {"span_length": 0.5}, "span_length=0.5"),
    ],
)
def test_what_cannot_be_meant_is_told(tmp_path, rows, settings, message):
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps({**row, "other": 1}) + "\n" for row in rows))
    with pytest.raises(InputError, match=message):
        load_texts(arguments(train_file=[str(path)], **settings))


# Tokenizers


def test_a_causal_tokenizer_leaves_a_prompt_open(tmp_path):
    tokenizer = tokenizer_for("causal")
    tokenizer.save_pretrained(tmp_path)
    for one in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        ids = one("And God")["input_ids"]
        assert ids[0] == one.bos_token_id and one.eos_token_id not in ids
        assert one.padding_side == "left"
        longer = one("And God said")["input_ids"]
        assert longer[: len(ids)] == ids
        assert one.decode(longer[len(ids) :], skip_special_tokens=True) == " said"


def test_a_mask_is_a_word_and_a_text_may_hold_its_name(tmp_path):
    tokenizer = tokenizer_for("masked")
    tokenizer.save_pretrained(tmp_path)
    for one in (
        tokenizer,
        AutoTokenizer.from_pretrained(tmp_path),
        for_language_modeling(tokenizer, "masked"),
    ):
        words = one("In the beginning God")["input_ids"]
        masked = one("In the <mask> God")["input_ids"]
        place = masked.index(one.mask_token_id)
        assert [words[0], words[-1]] == [one.bos_token_id, one.eos_token_id]
        assert masked[:place] == words[:place]
        assert words[-len(masked) + place + 1 :] == masked[place + 1 :]
    trained = encode_texts(splits(), tokenizer, arguments(objective="masked"))["train"].blocks
    ids = list(chain.from_iterable(trained["input_ids"]))
    assert tokenizer.mask_token_id not in ids
    assert ids.count(tokenizer.eos_token_id) == len(TEXTS)


def test_other_tokenizers_are_taken_as_they_are():
    def other(**tokens):
        backend = Tokenizer(models.WordLevel({"a": 0, "<end>": 1, "<unk>": 2}, unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", **tokens)

    gpt2 = for_language_modeling(other(eos_token="<end>"), "causal")
    encoded = encode_texts(splits(["a a", "a"]), gpt2, arguments())["train"]
    assert encoded["input_ids"][:] == [[1, 0, 0, 1, 1, 0, 1]]
    assert predicted(encoded) == [0, 0, 1, 1, 0, 1]
    with pytest.raises(InputError, match="no mask_token"):
        for_language_modeling(gpt2, "masked")
    with pytest.raises(InputError, match="ends a text"):
        for_language_modeling(other(), "causal")


# Masks


def masked_blocks(count=200, seed=0, probability=0.15):
    tokenizer = tokenizer_for("masked")
    rows = Dataset.from_dict({"input_ids": [[0, *range(3, 99), 2]] * count})
    return MaskedBlocks(rows, tokenizer, probability, seed), tokenizer


def test_masks_follow_seed_epoch_and_index_alone():
    one, _ = masked_blocks()
    two, _ = masked_blocks()
    backwards = [two[index] for index in reversed(range(4))][::-1]
    for index in range(4):
        for key in ("input_ids", "labels"):
            assert (one[index][key] == backwards[index][key]).all()
    assert (one[0]["labels"] != one[1]["labels"]).any()
    first = one[0]["labels"]
    one.set_epoch(1)
    assert (one[0]["labels"] != first).any()
    one.set_epoch(0)
    assert (one[0]["labels"] == first).all()
    assert (masked_blocks(seed=1)[0][0]["labels"] != first).any()


def test_masks_are_berts():
    masked, tokenizer = masked_blocks()
    ids, labels = (np.stack([masked[index][key] for index in range(200)]) for key in ("input_ids", "labels"))
    true = np.array(masked.blocks["input_ids"][0])
    hidden = labels != -100
    assert (np.where(hidden, labels, true) == true).all()
    assert (ids == true)[~hidden].all()
    assert not hidden[:, [0, -1]].any()  # <s> and </s>
    assert hidden[:, 1:-1].mean() == pytest.approx(0.15, abs=0.01)
    assert (ids == tokenizer.mask_token_id)[hidden].mean() == pytest.approx(0.8, abs=0.03)
    assert (ids == labels)[hidden].mean() == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_trainer_tells_masks_their_epoch(tmp_path, workers):
    class Recorder(MaskedBlocks):
        epochs = torch.zeros(3, dtype=torch.long).share_memory_()

        def __getitem__(self, index):
            self.epochs[int(self.epoch)] += 1
            return super().__getitem__(index)

    tokenizer = tokenizer_for("masked")
    rows = encode_texts(splits(), tokenizer, arguments(objective="masked"))["train"].blocks
    train = Recorder(rows, tokenizer, 0.15, 0)
    Recorder.epochs.zero_()
    train_on(tmp_path, train, tokenizer, num_train_epochs=2, dataloader_num_workers=workers)
    assert Recorder.epochs.tolist() == [len(rows), len(rows), 0]


def train_on(folder, train, tokenizer, **settings):
    from transformers import AutoModelForMaskedLM

    sizes = {**SIZES, "encoder_layers": 1, "decoder_layers": 0}
    config = VanillaTransformerConfig(vocab_size=len(tokenizer), **sizes)
    args = VanillaTransformerTrainingArguments(
        str(tmp := folder / "run"), use_cpu=True, save_strategy="no", max_target_tokens=32, **settings
    )
    assert tmp
    collator = Seq2SeqCollator(tokenizer.pad_token_id)
    trainer = VanillaTransformerTrainer(AutoModelForMaskedLM.from_config(config), args, collator, train)
    trainer.train()
    return trainer


def test_denoising_blocks_are_the_texts_with_an_end_each():
    tokenizer = tokenizer_for("denoising")
    noisy = encode_texts(splits(), tokenizer, arguments(objective="denoising"))["train"]
    texts = [
        tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"] for text in TEXTS
    ]
    targets = [noisy[index]["labels"].tolist() for index in range(len(noisy))]
    assert all(len(ids) <= 8 and ids[-1] == tokenizer.eos_token_id for ids in targets)
    assert list(chain.from_iterable(ids[:-1] for ids in targets)) == list(chain.from_iterable(texts))
    assert len(targets) == sum(-(-len(ids) // 7) for ids in texts)
    assert tokenizer("a")["input_ids"][0] != tokenizer.bos_token_id  # as seq2seq.py will read it


def test_noise_deletes_tokens_and_moves_spans():
    ids = [*range(3, 203), 2]
    noisy = NoisyBlocks(Dataset.from_dict({"input_ids": [ids] * 300}), 0.15, 10, seed=0)
    pairs = [noisy[index] for index in range(300)]
    assert all(pair["labels"].tolist() == ids and pair["input_ids"][-1] == 2 for pair in pairs)
    left = [pair["input_ids"][:-1] for pair in pairs]
    assert all(set(row) < set(ids) and len(set(row)) == len(row) for row in left)
    assert np.mean([len(row) for row in left]) / 200 == pytest.approx(0.85, abs=0.01)
    # A gap of a token follows a deletion; one backwards, or of many tokens, a place where spans meet.
    moved = np.mean([((np.diff(row) < 0) | (np.diff(row) > 5)).sum() for row in left])
    assert moved == pytest.approx(199 / 10, abs=2)

    assert (noisy[7]["input_ids"] == pairs[7]["input_ids"]).all()
    noisy.set_epoch(1)
    assert noisy[7]["input_ids"].tolist() != pairs[7]["input_ids"].tolist()


@pytest.mark.parametrize("length", [0, 1, 2])
def test_noise_of_very_short_texts(length):
    ids = [*range(5, 5 + length), 2]
    noisy = NoisyBlocks(Dataset.from_dict({"input_ids": [ids]}), 0.5, 1, seed=0)
    for epoch in range(20):
        noisy.set_epoch(epoch)
        assert noisy[0]["input_ids"][-1] == 2 and noisy[0]["labels"].tolist() == ids


# Scores


def test_scores_of_the_text_are_those_of_its_tokens(tmp_path):
    """Bits per character and word perplexity against the log-likelihood of each token in one whole window."""
    tokenizer = tokenizer_for("causal")
    torch.manual_seed(0)
    config = VanillaTransformerConfig(vocab_size=len(tokenizer), **SIZES)
    model = VanillaTransformerForCausalLM(config).eval()
    held_out = splits(TEXTS[:2])
    encoded = encode_texts(held_out, tokenizer, arguments(block_size=200))["validation"]
    args = VanillaTransformerTrainingArguments(str(tmp_path), use_cpu=True)
    collator = Seq2SeqCollator(tokenizer.pad_token_id)
    trainer = VanillaTransformerTrainer(model, args, collator, eval_dataset=encoded)
    metrics = trainer.evaluate(encoded, metric_key_prefix="validation")
    scores = text_scores(metrics, "validation", held_out["validation"], encoded)

    ids = torch.tensor(encoded["input_ids"][:])
    logits = model(ids).logits.log_softmax(-1)
    likelihoods = logits[:, :-1].gather(2, ids[:, 1:, None]).squeeze()
    nll = -likelihoods[ids[0, 1:] != tokenizer.bos_token_id].sum().item()
    characters = sum(len(text) + 1 for text in TEXTS[:2])
    words = sum(len(text.split()) + 1 for text in TEXTS[:2])
    assert scores["validation_bits_per_character"] == pytest.approx(nll / math.log(2) / characters, rel=1e-5)
    assert scores["validation_word_perplexity"] == pytest.approx(math.exp(nll / words), rel=1e-4)
    assert scores["validation_characters"] == characters and scores["validation_words"] == words
    assert scores["validation_tokens"] == len(predicted(encoded))
    assert metrics["validation_perplexity"] == pytest.approx(
        math.exp(nll / len(predicted(encoded))), rel=1e-5
    )


# The recipe


@pytest.fixture(scope="module")
def recipe():
    return load_recipe("language_modeling")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_parses(path, recipe):
    model, data, args = recipe.settings([str(path), "--bf16", "false"])
    assert args.output_dir.startswith("outputs/") and path.stem in args.output_dir
    preset = VanillaTransformerConfig.from_preset(model.pop("preset", "base"), **model)
    assert data.objective == "causal" or preset.encoder_layers
    assert data.objective == "masked" or preset.decoder_layers


SMALL = {
    **{"max_train_samples": 300, "max_validation_samples": 5, "max_test_samples": 5, "vocab_size": 400},
    **{"block_size": 32, "max_steps": 2, "max_target_tokens": 200, "logging_steps": 1, "use_cpu": True},
    **{"model.hidden_size": 16, "model.intermediate_size": 32, "model.num_attention_heads": 2},
    **{
        "model.encoder_layers": 1,
        "model.decoder_layers": 1,
        "warmup_steps": 1,
        "eval_steps": 1,
        "bf16": False,
    },
    **{"save_strategy": "steps", "save_steps": 1},
}


def run(recipe, monkeypatch, path, folder, *more):
    words = [path, *(f"--{name}={value}" for name, value in SMALL.items()), *more, f"--output_dir={folder}"]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["recipes/language_modeling.py", *map(str, words)])
    recipe.main()
    return json.loads((folder / "results.json").read_text())


def test_the_quickstart_from_data_to_pipeline(recipe, monkeypatch, tmp_path):
    folder = tmp_path / "model"
    results = run(recipe, monkeypatch, "recipes/language_modeling/quickstart.yaml", folder)
    assert results["updates"] == 2
    for split in ("validation", "test"):
        nll = results[f"{split}_loss"] * results[f"{split}_tokens"]
        bits = results[f"{split}_bits_per_character"] * results[f"{split}_characters"]
        assert bits == pytest.approx(nll / math.log(2))
        assert results[f"{split}_perplexity"] == pytest.approx(math.exp(results[f"{split}_loss"]))
    card = (folder / "README.md").read_text()
    assert "bits per character" in card and 'pipeline("text-generation"' in card
    config = AutoConfig.from_pretrained(folder)
    assert (
        config.max_position_embeddings
        == SMALL["block_size"]
        < VanillaTransformerConfig().max_position_embeddings
    )

    write = pipeline("text-generation", model=str(folder), max_new_tokens=6, do_sample=False)
    prompts = ["In the beginning God", "And", "He said to them, Go and"]
    single = [write(prompt)[0]["generated_text"] for prompt in prompts]
    assert all(text.startswith(prompt) for text, prompt in zip(single, prompts))
    assert [texts[0]["generated_text"] for texts in write(prompts, batch_size=3)] == single
    assert [texts[0]["generated_text"] for texts in write(prompt for prompt in prompts)] == single
    rows = KeyDataset(Dataset.from_dict({"prompt": prompts}), "prompt")
    assert [texts[0]["generated_text"] for texts in write(rows, batch_size=2)] == single

    again = run(
        recipe,
        monkeypatch,
        "recipes/language_modeling/quickstart.yaml",
        folder,
        "--max_steps=3",
        "--resume_from_checkpoint=true",
    )
    assert again["updates"] == 3


def test_the_masked_recipe_from_data_to_pipeline(recipe, monkeypatch, tmp_path):
    folder = tmp_path / "model"
    results = run(recipe, monkeypatch, "recipes/language_modeling/masked.yaml", folder)
    assert results["validation_loss"] > 0 and "validation_bits_per_character" not in results
    positions = VanillaTransformerConfig().max_position_embeddings  # room for what it is fine-tuned to
    assert AutoConfig.from_pretrained(folder).max_position_embeddings == positions
    fill = pipeline("fill-mask", model=str(folder), top_k=3)
    texts = ["In the <mask> God created.", "And God <mask>"]
    single = [fill(text) for text in texts]
    assert [len(answers) for answers in single] == [3, 3]
    for one, many in zip(single, fill(texts, batch_size=2)):
        assert [answer["token"] for answer in many] == [answer["token"] for answer in one]
    assert single[0][0]["sequence"].startswith("In the ")
    assert [answers[0]["token"] for answers in fill(text for text in texts)] == [
        answers[0]["token"] for answers in single
    ]


def test_a_denoising_model_is_a_start_for_summaries(recipe, monkeypatch, tmp_path, caplog):
    """language_modeling.py leaves what seq2seq.py goes on from: its weights, its tokenizer and its sizes."""
    started, folder = tmp_path / "started", tmp_path / "model"
    book = tmp_path / "book.jsonl"
    rows = [{"text": f"The library {number} reads files.", "summary": "reads files"} for number in range(300)]
    book.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = [f"--train_file={book}", f"--validation_file={book}"]
    noise = ["--objective=denoising", "--max_source_tokens=200", "--model.max_position_embeddings=64"]
    results = run(recipe, monkeypatch, given[0], started, given[1], *noise)
    assert results["validation_loss"] > 0 and "validation_bits_per_character" not in results
    assert pipeline("text2text-generation", model=str(started))("The library")[0]["generated_text"]

    seq2seq = load_recipe("seq2seq")

    def fine_tune(folder, *more):
        rate = ["--learning_rate=1e-9", "--lr_scheduler_type=constant", "--max_steps=1", "--use_cpu=true"]
        limits = ["--max_source_tokens=500", "--max_target_tokens=500", "--max_validation_samples=2"]
        columns = ["--task=summarization", "--source_column=text", "--target_column=summary"]
        words = [*given, *rate, *limits, *columns, f"--pretrained={started}", f"--output_dir={folder}", *more]
        monkeypatch.setattr(sys, "argv", ["recipes/seq2seq.py", *words])
        seq2seq.main()

    fine_tune(folder, "--model.dropout=0.3")
    assert "vocab_size" not in caplog.text
    fine_tune(tmp_path / "sized", "--vocab_size=321")
    assert "vocab_size=321 is ignored" in caplog.text
    before, after = (AutoModelForSeq2SeqLM.from_pretrained(path) for path in (started, folder))
    for (name, one), two in zip(before.named_parameters(), after.parameters()):
        torch.testing.assert_close(one, two, msg=name)
    assert after.config.dropout == 0.3 and before.config.dropout != 0.3
    assert (
        AutoTokenizer.from_pretrained(folder).get_vocab()
        == AutoTokenizer.from_pretrained(started).get_vocab()
    )
    assert str(started) in (folder / "README.md").read_text()

    for key, message in (
        ("--model.preset=tiny", "model.preset and pretrained"),
        ("--model.hidden_size=32", "other sizes than the model: block asks for"),
        ("--tokenizer=" + str(other_tokenizer(tmp_path)), "has a vocabulary of .* but the tokenizer has"),
    ):
        with pytest.raises(InputError, match=message):
            fine_tune(tmp_path / "refused", key)


def other_tokenizer(folder):
    tokenizer_for("denoising").save_pretrained(folder / "other")
    return folder / "other"


def test_a_file_and_a_given_tokenizer(recipe, monkeypatch, tmp_path):
    book = tmp_path / "book.txt"
    book.write_text("".join(f"The dog {number} runs home.\n" for number in range(200)))
    one = run(recipe, monkeypatch, f"--train_file={book}", tmp_path / "one", "--eval_strategy=no")
    assert one["updates"] == 2
    given = [f"--tokenizer={tmp_path / 'one'}", f"--test_file={book}", "--eval_strategy=no"]
    two = run(recipe, monkeypatch, f"--train_file={book}", tmp_path / "two", *given)
    assert two["test_characters"] == len(book.read_text())
    with pytest.raises(InputError, match="block_size=32 is more than max_position_embeddings=16"):
        run(
            recipe,
            monkeypatch,
            f"--train_file={book}",
            tmp_path / "three",
            "--model.max_position_embeddings=16",
            "--eval_strategy=no",
        )
