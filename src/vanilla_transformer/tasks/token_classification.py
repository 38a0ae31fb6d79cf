"""Sentences with a tag of a named entity for each word: reading, encoding, and the loss."""

import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from transformers import PreTrainedTokenizerBase

from ..corpora.names import BIBLE_NAMES, load_names
from ..losses import IGNORE_INDEX, count_items, label_smoothed_cross_entropy, r_drop_divergence
from .entities import OUTSIDE, Tags, checked_tags, spans
from .lines import decoded, text_lines
from .settings import InputError, nearest
from .sources import Rows, first_rows, load_rows, require_column
from .text import TextArguments

logger = logging.getLogger(__name__)


@dataclass
class TokenClassificationArguments(TextArguments):
    """Where sentences and their tags come from, and how to encode them."""

    dataset: str | None = field(default=None, metadata={"help": "Hub name, folder, or bible-names (shipped)"})
    tokens_column: str = field(default="tokens", metadata={"help": "column of the lists of words"})
    tags_column: str = field(
        default="ner_tags", metadata={"help": "column of the lists of tags: text, or class labels"}
    )
    max_length: int = field(
        default=256, metadata={"help": "in tokens: longer sentences are cut at their end"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tokens_column == self.tags_column:
            raise InputError(f"tokens_column and tags_column are both {self.tags_column!r}")
        if self.max_length < 3:
            raise InputError(f"max_length={self.max_length} must be at least 3")
        if self.streaming:
            raise InputError(
                "streaming does not work here: collecting the types needs the whole data; remove streaming"
            )


# Reading


def load_splits(data: TokenClassificationArguments, names: list[str] | None = None) -> dict[str, Dataset]:
    """Return those of train, validation and test that `data` names, with `words`, `tags` and `text`.

    Tags are class labels: O, and B- and I- of every type in train. `text` is the words with spaces between
    them. Sentences without words are skipped and logged.

    Args:
        names: of the tags that a model knows, to score it; by default those of train.

    Raises:
        InputError: a column is missing or has another type, a tag is wrong, or its type is not in train.
    """
    splits: dict[str, Dataset] = {}
    names = list(names or ())
    for split, (rows, where) in _load(data).items():
        words, tags = _lists(rows, where, data)
        tags = checked_tags(words, tags, where)
        kept = [index for index, sentence in enumerate(words) if sentence]
        if skipped := len(words) - len(kept):
            logger.warning("%s: skipped %d of %d sentences without words", where, skipped, len(words))
        types = Counter(kind for sentence in tags for kind, _, _ in spans(sentence))
        if split == "train":
            names = _class_names(types, where)
        _check_types(types, names, where)
        if not kept:
            logger.warning("%s: no sentences are left to score", where)
            continue
        splits[split] = Dataset.from_dict(
            {
                "words": [words[index] for index in kept],
                "tags": [tags[index] for index in kept],
                "text": [" ".join(words[index]) for index in kept],
            },
            features=Features(
                {
                    "words": List(Value("string")),
                    "tags": List(ClassLabel(names=names)),
                    "text": Value("string"),
                }
            ),
        )
    return splits


def _load(data: TokenClassificationArguments) -> Mapping[str, tuple[Rows, str]]:
    if data.dataset != BIBLE_NAMES:
        return load_rows(data, lambda name, paths, streaming: _read_conll(paths, data))
    columns = {"tokens": data.tokens_column, "ner_tags": data.tags_column}
    return {
        name: (
            first_rows(rows.rename_columns(columns), getattr(data, f"max_{name}_samples")),
            f"{BIBLE_NAMES} ({name})",
        )
        for name, rows in load_names().items()
        if name in data.splits
    }


def _read_conll(paths: list[str], data: TokenClassificationArguments) -> Dataset:
    """Read files with a word and its tag in the first and last column of each line.

    An empty line ends a sentence. Lines with -DOCSTART-, which begin a document, are ignored.
    """
    words: list[list[str]] = []
    tags: Tags = []
    for path in paths:
        at_end = True
        for number, raw in enumerate(text_lines(path), start=1):
            columns = re.split(r"[ \t]+", decoded(raw, path, number).strip(" \t"))
            if columns[0] in ("", "-DOCSTART-"):
                at_end = True
                continue
            if len(columns) < 2:
                raise InputError(
                    f"{path}, line {number}: expected a word and its tag, with a space or tab between them, "
                    f"but found only {columns[0]!r}"
                )
            if at_end:
                words.append([])
                tags.append([])
                at_end = False
            words[-1].append(columns[0])
            tags[-1].append(columns[-1])
    kinds = Features({data.tokens_column: List(Value("string")), data.tags_column: List(Value("string"))})
    return Dataset.from_dict({data.tokens_column: words, data.tags_column: tags}, features=kinds)


def _lists(rows: Rows, where: str, data: TokenClassificationArguments) -> tuple[list[list[str]], Tags]:
    """Return the words and the tags of each sentence as text."""
    lists = []
    for key in ("tokens_column", "tags_column"):
        column = getattr(data, key)
        require_column(rows.column_names or (), column, key, where)
        kind = getattr((rows.features or {})[column], "feature", None)
        names = kind.names if isinstance(kind, ClassLabel) else None
        sentences = [sentence or [] for sentence in rows[column]]
        for number, sentence in enumerate(sentences, start=1):
            if not isinstance(sentence, list):
                raise InputError(
                    f"{where}, row {number}: {key} {column!r} holds {sentence!r}, and not a list with an "
                    "entry for each word"
                )
            for index, value in enumerate(sentence if names else ()):
                if value is None or value < 0:
                    raise InputError(f"{where}, row {number}: word {index + 1} has no tag")
            if names is None and (wrong := [value for value in sentence if not isinstance(value, str)]):
                hint = ": give text such as B-PER, or declare a ClassLabel" if key == "tags_column" else ""
                raise InputError(
                    f"{where}, row {number}: {key} {column!r} holds {wrong[0]!r}, which is no text{hint}"
                )
        lists.append([[names[value] for value in one] for one in sentences] if names else sentences)
    return lists[0], lists[1]


def _class_names(types: Counter[str], where: str) -> list[str]:
    if not types:
        raise InputError(f"{where}: no sentence has an entity: every tag is {OUTSIDE}")
    logger.info("entities: %s", ", ".join(f"{kind} {count:,}" for kind, count in types.most_common()))
    return [OUTSIDE, *(f"{prefix}-{kind}" for kind in sorted(types) for prefix in "BI")]


def _check_types(types: Counter[str], names: Sequence[str], where: str) -> None:
    known = [name[2:] for name in names[1::2]]
    for kind in types.keys() - set(known):
        raise InputError(
            f"{where}: the type {kind!r} ({types[kind]} entities) is not in the training data"
            f"{nearest(kind, known)}: it has {', '.join(known)}. Add examples of it, or remove it"
        )


# Tokens


def encode_splits(
    splits: Mapping[str, Dataset],
    tokenizer: PreTrainedTokenizerBase,
    data: TokenClassificationArguments,
    longest: int,
) -> dict[str, Dataset]:
    """Return the splits with `input_ids`, and `labels`: a word's tag at its first piece, else -100.

    It cuts sentences to `data.max_length` and to `longest` tokens. Validation and test keep their other
    columns and are sorted by length. `row` is the index before sorting, and `placed` has the indices of the
    words that have a token.
    """
    limit = min(longest, data.max_length)

    def encode(rows: dict, numbers: list[int]) -> dict:
        encoded = tokenizer(rows["words"], is_split_into_words=True, truncation=True, max_length=limit)
        places = [_first_pieces(encoded.word_ids(index)) for index in range(len(numbers))]
        labels = [
            [IGNORE_INDEX if word is None else tags[word] for word in place]
            for place, tags in zip(places, rows["tags"])
        ]
        placed = [[word for word in place if word is not None] for place in places]
        return {"input_ids": encoded["input_ids"], "labels": labels, "placed": placed, "row": numbers}

    whole = {}
    for name, rows in splits.items():
        encoded = rows.map(
            encode,
            batched=True,
            with_indices=True,
            remove_columns=rows.column_names if name == "train" else None,
            num_proc=data.preprocessing_workers,
            desc=f"Encoding the {name} sentences",
        )
        pairs = zip(encoded["placed"], rows["words"])
        if cut := sum(len(placed) < len(words) for placed, words in pairs):
            effect = "are not trained" if name == "train" else f"count as {OUTSIDE}"
            message = "%s: cut %d of %d sentences to %d tokens; the cut words %s"
            logger.warning(message, name, cut, len(rows), limit, effect)
        if name == "train":
            encoded = encoded.remove_columns(["placed", "row"])
        else:  # little padding; the longest first, so that memory runs out at once or never
            lengths = np.array(list(map(len, encoded["input_ids"])))
            encoded = encoded.select(np.argsort(-lengths, kind="stable"))
        whole[name] = encoded
    return whole


def _first_pieces(word_ids: Sequence[int | None]) -> list[int | None]:
    """Return the index of the word for the first token of each word, None for all other tokens."""
    return [None if index and word == word_ids[index - 1] else word for index, word in enumerate(word_ids)]


# Loss


def token_loss(smoothing: float = 0.0, r_drop: float = 0.0) -> Callable[..., torch.Tensor]:
    """Return a `compute_loss_func` for the Trainer: smoothed cross-entropy, in nats per labelled token.

    Args:
        smoothing: ε of the target (1 - ε) · label + ε / classes (section 5.4).
        r_drop: α of R-Drop; the Trainer then passes each training batch twice.
    """

    def loss(
        outputs: Mapping[str, torch.Tensor],
        labels: torch.Tensor,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        logits = outputs["logits"]  # (batch, length, classes)
        doubled = r_drop > 0 and torch.is_grad_enabled()
        items = count_items(labels, num_items_in_batch, doubled)
        mean = label_smoothed_cross_entropy(logits, labels, smoothing, items)
        if doubled:
            mean = mean + r_drop * r_drop_divergence(logits, labels, num_items_in_batch)
        return mean

    return loss
