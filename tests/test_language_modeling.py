"""Language modelling: each token is predicted once, blocks and masks are what they say, the recipe's path."""

import json
import logging
import math
from itertools import chain

import numpy as np
import pytest
import torch
from datasets import Dataset, IterableDataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

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
        ([], {"stride": 2, "objective": "masked"}, "does not apply to objective=masked"),
        ([], {"streaming": True, "objective": "masked"}, "streaming does not work with objective=masked"),
        (
            [],
            {"streaming": True, "objective": "denoising"},
            "streaming does not work with objective=denoising",
        ),
        ([], {"pack_documents": True, "objective": "denoising"}, "pack_documents=True does not apply"),
    ],
)
def test_bad_data_and_settings_are_errors(tmp_path, rows, settings, message):
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps({**row, "other": 1}) + "\n" for row in rows))
    with pytest.raises(InputError, match=message):
        load_texts(arguments(train_file=[str(path)], **settings))


# Tokenizers


def test_a_causal_tokenizer_adds_no_end_to_a_prompt(tmp_path):
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


def test_other_tokenizers_do_not_change():
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
    with pytest.raises(InputError, match="no end token"):
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
def test_the_trainer_sets_the_epoch_of_masks(tmp_path, workers):
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


def test_each_denoising_block_ends_with_the_end_token():
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
