"""Text for language models: rows are documents, documents become a stream of tokens, the stream blocks.

A document is `<s> text </s>`. A causal model predicts each of its tokens but `<s>` exactly once. Training
blocks overlap by one token. Held-out blocks overlap by `block_size - stride` tokens of context, which are not
scored again. A masked model predicts masked tokens. A denoising model restores a text whose spans were
reordered and whose tokens were partly deleted. Masks and noise differ in every epoch.
"""

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal

import numpy as np
import pyarrow.compute as pc
import torch
from datasets import Dataset, Features, IterableDataset, Value
from tokenizers import decoders
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from ..epoch import Epoch
from ..losses import IGNORE_INDEX
from ..tokenization_vanilla_transformer import VanillaTransformerTokenizer
from .lines import decoded, text_lines
from .settings import InputError
from .sources import Rows, SkipFrom, load_rows, require_column
from .text import TextArguments

logger = logging.getLogger(__name__)

MASK = "<mask>"
MASKED_SHARE = 0.15  # of the tokens (Devlin et al. 2018, section 3.1)
DELETED_SHARE = 0.15  # of the tokens, the noise of denoising (after Lewis et al. 2020, section 2.2)
SPAN_LENGTH = 10.0  # the mean length in tokens of the spans that denoising reorders


@dataclass
class LanguageModelingArguments(TextArguments):
    """The texts, and what the model predicts from what.

    A file with another suffix than those of tables is plain text: one document.
    """

    text_column: str = field(default="text", metadata={"help": "column of the texts; each row is a document"})
    objective: Literal["causal", "masked", "denoising"] = field(
        default="causal",
        metadata={
            "help": "predict the next token (a decoder), masked tokens (an encoder), or a text from a noisy "
            "copy (encoder and decoder, a start for seq2seq.py)"
        },
    )
    block_size: int = field(default=256, metadata={"help": "largest number of tokens in an example"})
    stride: int | None = field(
        default=None,
        metadata={
            "help": "tokens of a held-out text that each block scores; the rest of the block is context. The "
            "default is half of block_size"
        },
    )
    pack_documents: bool | None = field(
        default=None,
        metadata={
            "help": "let a block hold several documents (the default); if false, and always in denoising, a "
            "block holds one document"
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block_size < 2:
            raise InputError(f"block_size={self.block_size} must be at least 2")
        for key, value, objectives in (
            ("stride", self.stride, ("causal",)),
            ("pack_documents", self.pack_documents or None, ("causal", "masked")),
        ):
            if value is not None and self.objective not in objectives:
                raise InputError(f"{key}={value} does not apply to objective={self.objective}: remove it")
        self.stride = self.block_size // 2 if self.stride is None else self.stride
        if self.pack_documents is None:
            self.pack_documents = self.objective != "denoising"
        if not 1 <= self.stride < self.block_size:
            raise InputError(
                f"stride={self.stride} must be at least 1 and below block_size={self.block_size}"
            )
        if self.streaming and self.objective != "causal":
            raise InputError(f"streaming does not work with objective={self.objective}: remove streaming")


# Texts


def load_texts(data: LanguageModelingArguments) -> dict[str, Rows]:
    """Return the splits that `data` names, with the single column `text` and no blank texts.

    It removes line ends at the end of a row. It streams only the training split.

    Raises:
        InputError: as `load_rows`, or the column is missing, does not hold text, or is blank in every row.
    """
    splits = {}
    for name, (rows, where) in load_rows(data, _read_documents).items():
        texts = _text_column(rows, where, data.text_column)
        if isinstance(texts, IterableDataset):
            message = f"{where}: skipped %d rows without text so far"
            splits[name] = texts.filter(SkipFrom(_is_blank, message))
            continue
        blank = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(texts.with_format("arrow")[:]["text"])), 0)
        kept = pc.indices_nonzero(pc.invert(blank)).to_pylist()
        if not kept:
            raise InputError(f"{where}: there is no text in it")
        if skipped := len(texts) - len(kept):
            logger.warning("%s: skipped %d of %d rows without text", where, skipped, len(texts))
        splits[name] = texts.select(kept)
    return splits


def _read_documents(name: str, paths: list[str], streaming: bool) -> Rows:
    """Read files of plain text, one document each, with their line ends."""
    if streaming:
        return IterableDataset.from_generator(_documents, gen_kwargs={"paths": paths})
    return Dataset.from_list(list(_documents(paths)))


def _documents(paths: list[str]) -> Iterator[dict[str, str]]:
    for path in paths:
        lines = enumerate(text_lines(path), start=1)
        yield {"text": "\n".join(decoded(line, path, number) for number, line in lines)}


def _text_column(rows: Rows, where: str, column: str) -> Rows:
    columns = rows.column_names or list(next(iter(rows), {}))
    if columns == ["text"]:
        column = "text"  # files of plain text
    require_column(columns, column, "text_column", where)

    def texts(batch: dict) -> dict:
        for value in batch[column]:
            if not isinstance(value, str | None):
                raise InputError(
                    f"{where}: text_column {column!r} holds {type(value).__name__}, not text: {value!r}"
                )
        return {"text": [(value or "").rstrip("\r\n") for value in batch[column]]}

    return rows.map(texts, batched=True, remove_columns=columns, features=Features({"text": Value("string")}))


def _is_blank(row: dict[str, str]) -> bool:
    return not row["text"].strip()


# Tokens


def for_language_modeling(tokenizer: PreTrainedTokenizerBase, objective: str) -> PreTrainedTokenizerBase:
    """Set up the tokenizer for the objective, and return it.

    This package's tokenizer makes `<s> text` for a causal model, which continues the text, and keeps the
    space before the first word when it decodes. For a masked model it makes `<s> text </s>`, and `<mask>` in
    a text is the mask. For denoising, as for translation, it makes `text </s>`. Others do not change.

    Raises:
        InputError: another tokenizer has no end token, or no mask.
    """
    if isinstance(tokenizer, VanillaTransformerTokenizer) and objective != "denoising":
        settings: Any = tokenizer  # its own __init__ makes these two settable
        settings.add_bos_token, settings.add_eos_token = True, objective == "masked"
        tokenizer.update_post_processor()
        tokenizer.padding_side = "left" if objective == "causal" else "right"
        tokenizer.init_kwargs["padding_side"] = tokenizer.padding_side  # saved with the tokenizer
        if objective == "causal":
            tokenizer.backend_tokenizer.decoder = decoders.ByteLevel()
        else:
            tokenizer.add_special_tokens({"mask_token": MASK})
    if _end(tokenizer) is None:
        raise InputError("the tokenizer has no end token (eos_token or sep_token)")
    if objective == "masked" and tokenizer.mask_token_id is None:
        raise InputError("objective=masked: the tokenizer has no mask_token")
    return tokenizer


def check_block_size(data: LanguageModelingArguments, config: PreTrainedConfig) -> None:
    """Raise InputError if a block has more tokens than the model has positions."""
    if data.block_size > config.max_position_embeddings:
        raise InputError(
            f"block_size={data.block_size} is more than max_position_embeddings="
            f"{config.max_position_embeddings}"
        )


def _begin(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id of the token before a text; without one, as in GPT-2, that of the end of a text."""
    known = (tokenizer.bos_token_id, tokenizer.cls_token_id, _end(tokenizer))
    return next(id for id in known if id is not None)


def _end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    return tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id


def encode_texts(
    splits: Mapping[str, Rows],
    tokenizer: PreTrainedTokenizerBase,
    data: LanguageModelingArguments,
    seed: int = 0,
) -> dict[str, "Dataset | IterableDataset | ChangedBlocks"]:
    """Return blocks of at most `block_size` tokens: `input_ids`, and `labels` with -100 for unscored tokens.

    Every denoising block ends with `</s>`, even when its text is cut from the middle of a document. The
    training split is encoded 1,000 documents at a time, and the last block of these is shorter. No split
    loses a token.
    """
    causal = data.objective == "causal"

    def encode(rows: dict, step: int) -> dict:
        ids = tokenizer(rows["text"], add_special_tokens=False, split_special_tokens=True, verbose=False)[
            "input_ids"
        ]
        if data.objective == "denoising":
            cut = [block for text in ids for block, _ in blocks(text, data.block_size - 1, step)]
            return {"input_ids": [[*block, _end(tokenizer)] for block in cut]}
        documents = [[_begin(tokenizer), *text, _end(tokenizer)] for text in ids]
        streams = [list(chain.from_iterable(documents))] if data.pack_documents else documents
        pieces = [block for stream in streams for block in blocks(stream, data.block_size, step)]
        input_ids = [block for block, _ in pieces]
        if not causal:
            return {"input_ids": input_ids}
        return {"input_ids": input_ids, "labels": [labels_of(*piece, tokenizer) for piece in pieces]}

    encoded: dict[str, Any] = {}
    for name, rows in splits.items():
        training = name == "train"
        step = data.block_size - (data.objective != "masked")
        if causal and not training:
            step = data.stride or step
        options: dict[str, Any] = (
            {} if isinstance(rows, IterableDataset) else {"desc": f"Encoding the {name} texts"}
        )
        if training and options:
            options["num_proc"] = data.preprocessing_workers
        encoded[name] = rows.map(
            encode,
            batched=True,
            batch_size=1000 if training else None,
            remove_columns=["text"],
            fn_kwargs={"step": step},
            **options,
        )
        if data.objective == "masked":
            encoded[name] = MaskedBlocks(encoded[name], tokenizer, MASKED_SHARE, seed)
        if data.objective == "denoising":
            encoded[name] = NoisyBlocks(encoded[name], DELETED_SHARE, SPAN_LENGTH, seed)
    return encoded


def blocks(stream: Sequence[int], size: int, step: int) -> Iterator[tuple[Sequence[int], int]]:
    """Yield windows of `size` tokens, `step` apart, and the number of tokens shared with the one before."""
    overlap = size - step
    for start in range(0, max(1, len(stream) - overlap), step):
        yield stream[start : start + size], overlap if start else 0


def labels_of(block: Sequence[int], known: int, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the block with -100 for its first `known` tokens and for `<s>`, which is never predicted."""
    begin = _begin(tokenizer)
    hidden = None if begin == _end(tokenizer) else begin
    return [IGNORE_INDEX if index < known or token == hidden else token for index, token in enumerate(block)]


class ChangedBlocks(Epoch, torch.utils.data.Dataset, ABC):
    """Blocks with random changes, which are a function of the seed, the epoch and the index."""

    column_names = ["input_ids", "labels"]

    def __init__(self, blocks: Dataset, seed: int):
        super().__init__()
        self.blocks, self.seed = blocks, seed

    def select_columns(self, column: str) -> Dataset:
        """Return the unchanged blocks, to measure their lengths."""
        return self.blocks.select_columns("input_ids").rename_columns(
            {} if column == "input_ids" else {"input_ids": column}
        )

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        draw = np.random.default_rng([self.seed, self.epoch, index])
        return self.change(np.array(self.blocks[index]["input_ids"]), draw)

    @abstractmethod
    def change(self, ids: np.ndarray, draw: np.random.Generator) -> dict[str, np.ndarray]:
        """Return `input_ids` and `labels` of a block, `ids` (length,)."""


class MaskedBlocks(ChangedBlocks):
    """Blocks with BERT's masks (Devlin et al. 2018, section 3.1).

    Of the tokens to predict, 80% become the mask, 10% another token, and 10% do not change. The other labels
    are -100. Special tokens are never masked.
    """

    def __init__(self, blocks: Dataset, tokenizer: PreTrainedTokenizerBase, probability: float, seed: int):
        super().__init__(blocks, seed)
        self.probability = probability
        self.mask, self.vocabulary = tokenizer.mask_token_id, len(tokenizer)
        self.special = np.array(sorted(tokenizer.all_special_ids))

    def change(self, ids: np.ndarray, draw: np.random.Generator) -> dict[str, np.ndarray]:
        hidden = (draw.random(len(ids)) < self.probability) & ~np.isin(ids, self.special)
        fate = draw.random(len(ids))
        others = draw.integers(self.vocabulary, size=len(ids))
        shown = np.where(fate < 0.8, self.mask, np.where(fate < 0.9, others, ids))
        return {"input_ids": np.where(hidden, shown, ids), "labels": np.where(hidden, ids, IGNORE_INDEX)}


class NoisyBlocks(ChangedBlocks):
    """Blocks to restore from a noisy copy, as in BART (Lewis et al. 2020, section 2.2).

    The noise cuts the block at random into spans, reorders them, and deletes tokens. To restore it, a decoder
    finds the token that it has just written in the source, and copies the next one. The end token keeps its
    position.

    Args:
        deletion_probability: of each token.
        span_length: the mean, in tokens.
    """

    def __init__(self, blocks: Dataset, deletion_probability: float, span_length: float, seed: int):
        super().__init__(blocks, seed)
        self.deletion_probability, self.span_length = deletion_probability, span_length

    def change(self, ids: np.ndarray, draw: np.random.Generator) -> dict[str, np.ndarray]:
        text, end = ids[:-1], ids[-1:]
        cuts = np.flatnonzero(draw.random(max(len(text) - 1, 0)) < 1 / self.span_length) + 1
        spans = np.split(text, cuts)
        text = np.concatenate([spans[place] for place in draw.permutation(len(spans))])
        left = text[draw.random(len(text)) >= self.deletion_probability]
        return {"input_ids": np.concatenate([left, end]), "labels": ids}


# Scores


def text_scores(
    metrics: Mapping[str, float], split: str, texts: Dataset, encoded: Dataset
) -> dict[str, float]:
    """Return a causal model's loss per character and per word, which do not depend on the tokenizer.

    The end of a document counts as a character and as a word, because it is predicted like any other token.
    Words are separated by white space, as in the published perplexities of WikiText.

    Args:
        metrics: of the Trainer, with `<split>_loss`.
        texts, encoded: the split before and after `encode_texts`.
    """
    from ..metrics import load_metric

    tokens = sum(label != IGNORE_INDEX for labels in encoded["labels"] for label in labels[1:])
    characters = sum(len(text) + 1 for text in texts["text"])
    words = sum(len(text.split()) + 1 for text in texts["text"])
    nll = metrics[f"{split}_loss"] * tokens
    bits = load_metric("bits_per_character").compute(nll=[nll], characters=[characters])
    return {
        f"{split}_bits_per_character": bits["bits_per_character"],
        f"{split}_word_perplexity": math.exp(min(nll / words, 700)),
        f"{split}_tokens": tokens,
        f"{split}_words": words,
        f"{split}_characters": characters,
    }
