"""Text for language models: rows are documents, documents a stream of tokens, the stream blocks.

A document is `<s> text </s>`. A causal model predicts each token of it but `<s>`, exactly once: blocks
overlap by the one token that the next begins after, and where a held-out text is scored, by as many as
`stride` leaves for context, which are not scored again. A masked model fills in tokens that are hidden from
it, and a denoising one writes a text anew of which it sees what is left when spans have changed places and
tokens are lost: others in every epoch. What is left out is counted and logged; what cannot be meant is an
`InputError`.
"""

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal

import numpy as np
import pyarrow.compute as pc
import torch
from datasets import Dataset, IterableDataset
from tokenizers import AddedToken, decoders
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from ..losses import IGNORE_INDEX
from ..tokenization_vanilla_transformer import VanillaTransformerTokenizer
from .settings import InputError, nearest
from .sources import Rows, Skips, decoded, load_rows, text_lines
from .text import TextArguments

logger = logging.getLogger(__name__)

MASK = "<mask>"


@dataclass
class LanguageModelingArguments(TextArguments):
    """Where the texts come from, and what of them is predicted from what.

    Besides tables, files of plain text are read (any suffix but those of tables): each is one document.
    """

    text_column: str = field(default="text", metadata={"help": "column of the texts; each is a document"})
    objective: Literal["causal", "masked", "denoising"] = field(
        default="causal",
        metadata={
            "help": "predict the next token (a decoder), tokens that are hidden (an encoder), or a text from "
            "what noise has left of it (encoder and decoder, as a start for seq2seq.py)"
        },
    )
    block_size: int = field(default=256, metadata={"help": "tokens of an example, and most that one has"})
    stride: int | None = field(
        default=None,
        metadata={
            "help": "tokens that each block scores of a held-out text, the rest of it being context; half of "
            "block_size if not given"
        },
    )
    pack_documents: bool | None = field(
        default=None,
        metadata={
            "help": "let blocks run on over documents' ends (true if not given); else a block is of one "
            "document, as it always is in denoising"
        },
    )
    mask_probability: float = field(
        default=0.15, metadata={"help": "share of the tokens that a masked model has to fill in"}
    )
    deletion_probability: float = field(
        default=0.15, metadata={"help": "share of the tokens that the noise of denoising takes away"}
    )
    span_length: float = field(
        default=10.0,
        metadata={
            "help": "mean length in tokens of the spans that the noise of denoising puts in another order"
        },
    )

    def __post_init__(self):
        super().__post_init__()
        if self.block_size < 2:
            raise InputError(f"block_size={self.block_size} must be at least 2")
        for key, value, objectives in (
            ("stride", self.stride, ("causal",)),
            ("pack_documents", self.pack_documents or None, ("causal", "masked")),
        ):
            if value is not None and self.objective not in objectives:
                raise InputError(f"{key}={value} has no part in objective={self.objective}")
        self.stride = self.block_size // 2 if self.stride is None else self.stride
        if self.pack_documents is None:
            self.pack_documents = self.objective != "denoising"
        if not 1 <= self.stride < self.block_size:
            raise InputError(
                f"stride={self.stride} must be at least 1 and below block_size={self.block_size}"
            )
        for key in ("mask_probability", "deletion_probability"):
            if not 0 < getattr(self, key) < 1:
                raise InputError(f"{key}={getattr(self, key)} must be above 0 and below 1")
        if self.span_length < 1:
            raise InputError(f"span_length={self.span_length} must be at least 1")
        if self.streaming and self.objective != "causal":
            raise InputError(
                f"streaming and objective={self.objective} exclude each other: leave streaming out"
            )


# Texts


def load_texts(data: LanguageModelingArguments) -> dict[str, Rows]:
    """The splits that `data` names, with the column `text` alone and no blank text in it.

    A line end at the end of a row is no part of its text. Only the training split is streamed.

    Raises:
        InputError: as `load_rows`, or the column is missing or does not hold text, or nothing is left.
    """
    splits = {}
    for name, (rows, where) in load_rows(data, _read_documents).items():
        texts = _text_column(rows, where, data.text_column)
        if isinstance(texts, IterableDataset):
            splits[name] = texts.filter(_StreamFilter(where))
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
    """Files of plain text, one document each, with their line ends."""
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
    if column not in columns:
        held = ", ".join(columns)
        raise InputError(
            f"text_column: {where} has no column {column!r}{nearest(column, columns)} (it has {held})"
        )

    def texts(batch: dict) -> dict:
        for value in batch[column]:
            if not isinstance(value, str | None):
                raise InputError(
                    f"{where}: text_column {column!r} holds {type(value).__name__}, not text: {value!r}"
                )
        return {"text": [(value or "").rstrip("\r\n") for value in batch[column]]}

    return rows.map(texts, batched=True, remove_columns=columns)


class _StreamFilter:
    """Leaves out blank texts."""

    def __init__(self, where: str):
        self.skips = Skips(f"{where}: skipped %d rows without text so far")

    def __call__(self, row: dict[str, str]) -> bool:
        blank = not row["text"].strip()
        self.skips.add(blank)
        return not blank


# Tokens


def for_language_modeling(tokenizer: PreTrainedTokenizerBase, objective: str) -> PreTrainedTokenizerBase:
    """The tokenizer as the model will be used with it.

    This package's own begins texts with `<s>`. A causal model continues a text, so nothing stands after it,
    and the space before the first word of what it writes is kept when that is decoded. A masked one reads
    `<s> text </s>`, and `<mask>` as a word of a text is the mask. For denoising, as for translation, it reads
    `text </s>`. Others stay as they are.

    Raises:
        InputError: another tokenizer has no token for an end of text, or no mask.
    """
    if isinstance(tokenizer, VanillaTransformerTokenizer) and objective != "denoising":
        tokenizer.add_bos_token, tokenizer.add_eos_token = True, objective == "masked"
        tokenizer.update_post_processor()
        tokenizer.padding_side = "left" if objective == "causal" else "right"
        tokenizer.init_kwargs["padding_side"] = tokenizer.padding_side  # what is saved
        if objective == "causal":
            tokenizer.backend_tokenizer.decoder = decoders.ByteLevel()
        else:
            # normalized: it is found with the space before it, which belongs to the word that it stands for.
            tokenizer.add_special_tokens({"mask_token": AddedToken(MASK, normalized=True, special=True)})
            tokenizer.split_special_tokens = False
    if _end(tokenizer) is None:
        raise InputError("the tokenizer has no token that ends a text (eos_token or sep_token)")
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


def _begin(tokenizer) -> int:
    """The id of the token before a text: GPT-2, which has none, ends the text before."""
    known = (tokenizer.bos_token_id, tokenizer.cls_token_id, _end(tokenizer))
    return next(id for id in known if id is not None)


def _end(tokenizer) -> int | None:
    return tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id


def encode_texts(
    splits: Mapping[str, Rows],
    tokenizer: PreTrainedTokenizerBase,
    data: LanguageModelingArguments,
    seed: int = 0,
) -> dict[str, "Dataset | IterableDataset | ChangedBlocks"]:
    """Blocks of at most `block_size` tokens: `input_ids`, and `labels` with -100 for what is not scored.

    A block of denoising is text and `</s>`, be the text the beginning, the middle or the end of a document.
    The training split is encoded in stretches of 1,000 documents, of which the last block is shorter; no
    token of any split is left out.
    """
    causal = data.objective == "causal"

    def encode(rows: dict, step: int) -> dict:
        ids = tokenizer(rows["text"], add_special_tokens=False, split_special_tokens=True, verbose=False)[
            "input_ids"
        ]
        if data.objective == "denoising":
            pieces = [block for text in ids for block, _ in blocks(text, data.block_size - 1, step)]
            return {"input_ids": [[*block, _end(tokenizer)] for block in pieces]}
        documents = [[_begin(tokenizer), *text, _end(tokenizer)] for text in ids]
        streams = [list(chain.from_iterable(documents))] if data.pack_documents else documents
        pieces = [block for stream in streams for block in blocks(stream, data.block_size, step)]
        input_ids = [block for block, _ in pieces]
        if not causal:
            return {"input_ids": input_ids}
        return {"input_ids": input_ids, "labels": [labels_of(*piece, tokenizer) for piece in pieces]}

    encoded = {}
    for name, rows in splits.items():
        training = name == "train"
        step = data.block_size - (data.objective != "masked")
        if causal and not training:
            step = data.stride
        options = {} if isinstance(rows, IterableDataset) else {"desc": f"Encoding the {name} texts"}
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
            encoded[name] = MaskedBlocks(encoded[name], tokenizer, data.mask_probability, seed)
        if data.objective == "denoising":
            noise = data.deletion_probability, data.span_length
            encoded[name] = NoisyBlocks(encoded[name], *noise, seed)
    return encoded


def blocks(stream: Sequence[int], size: int, step: int) -> Iterator[tuple[Sequence[int], int]]:
    """Windows of `size` tokens, `step` apart, and how many tokens each shares with the one before."""
    overlap = size - step
    for start in range(0, max(1, len(stream) - overlap), step):
        yield stream[start : start + size], overlap if start else 0


def labels_of(block: Sequence[int], known: int, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The block itself, but -100 for its first `known` tokens, and for `<s>`, which nobody has to predict."""
    begin = _begin(tokenizer)
    hidden = None if begin == _end(tokenizer) else begin
    return [IGNORE_INDEX if place < known or token == hidden else token for place, token in enumerate(block)]


class ChangedBlocks(torch.utils.data.Dataset, ABC):
    """Blocks that are shown otherwise than they are stored; how, is a function of seed, epoch and index."""

    column_names = ["input_ids", "labels"]

    def __init__(self, blocks: Dataset, seed: int):
        self.blocks, self.seed = blocks, seed
        self.epoch = torch.tensor(0).share_memory_()  # seen by workers that live on between epochs

    def select_columns(self, column: str):
        """The blocks as they are stored, for those who measure them."""
        return self.blocks.select_columns("input_ids").rename_columns(
            {} if column == "input_ids" else {"input_ids": column}
        )

    def set_epoch(self, epoch: int):
        self.epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        draw = np.random.default_rng([self.seed, int(self.epoch), index])
        return self.change(np.array(self.blocks[index]["input_ids"]), draw)

    @abstractmethod
    def change(self, ids: np.ndarray, draw: np.random.Generator) -> dict[str, np.ndarray]:
        """`input_ids` and `labels` of one block, `ids` (length,)."""


class MaskedBlocks(ChangedBlocks):
    """Blocks in which tokens are hidden as BERT hides them (Devlin et al. 2018, section 3.1).

    Of the tokens to fill in, 80% become the mask, 10% another token and 10% stay what they are; labels are
    -100 elsewhere. Special tokens are never hidden.
    """

    def __init__(self, blocks: Dataset, tokenizer: PreTrainedTokenizerBase, probability: float, seed: int):
        super().__init__(blocks, seed)
        self.probability = probability
        self.mask, self.vocabulary = tokenizer.mask_token_id, len(tokenizer)
        self.special = np.array(sorted(tokenizer.all_special_ids))

    def change(self, ids, draw):
        hidden = (draw.random(len(ids)) < self.probability) & ~np.isin(ids, self.special)
        fate = draw.random(len(ids))
        others = draw.integers(self.vocabulary, size=len(ids))
        shown = np.where(fate < 0.8, self.mask, np.where(fate < 0.9, others, ids))
        return {"input_ids": np.where(hidden, shown, ids), "labels": np.where(hidden, ids, IGNORE_INDEX)}


class NoisyBlocks(ChangedBlocks):
    """Blocks to write anew from what is left of them, as BART learns (Lewis et al. 2020, section 2.2).

    The block is cut at random into spans, which change places, and tokens are deleted. To put it right a
    decoder has to find what it has just written in the source, and copy what comes after it. The end token
    stays where it is.

    Args:
        deletion_probability: of each token.
        span_length: the mean, in tokens.
    """

    def __init__(self, blocks: Dataset, deletion_probability: float, span_length: float, seed: int):
        super().__init__(blocks, seed)
        self.deletion_probability, self.span_length = deletion_probability, span_length

    def change(self, ids, draw):
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
    """What a causal model's loss per token means per character and per word, which no tokenizer changes.

    A document's end counts as a character, and as a word, because it is predicted like any other token. Words
    lie between white space, as in the published perplexities of WikiText.

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
