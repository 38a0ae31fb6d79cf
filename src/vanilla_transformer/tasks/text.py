"""Texts as tokens: the keys that say how, and the vocabulary that a recipe trains when none is given."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset, IterableDataset
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainingArguments,
)

from ..configuration_vanilla_transformer import VanillaTransformerConfig
from ..tokenization_vanilla_transformer import VanillaTransformerTokenizer
from .settings import InputError
from .sources import SourceArguments

logger = logging.getLogger(__name__)


@dataclass
class TextArguments(SourceArguments):
    """Where texts come from, and how they become tokens."""

    tokenizer: str | None = field(
        default=None,
        metadata={"help": "folder or Hub name of a tokenizer; one is trained on the data if not given"},
    )
    vocab_size: int = field(default=37000, metadata={"help": "size of the vocabulary that is trained"})
    max_tokenizer_samples: int | None = field(
        default=None, metadata={"help": "train the vocabulary on the first rows only"}
    )
    lowercase: bool = field(
        default=False, metadata={"help": "train a vocabulary of lower-case text, and score in lower case"}
    )
    preprocessing_workers: int | None = field(
        default=None, metadata={"help": "processes that encode the text"}
    )

    def __post_init__(self):
        super().__post_init__()
        if self.vocab_size < 2:
            raise InputError(f"vocab_size={self.vocab_size} must be at least 2")


@dataclass
class StartArguments:
    """What the training starts from."""

    _argument_group_name = "start"

    pretrained: str | None = field(
        default=None,
        metadata={
            "help": "folder or Hub name of a model to go on from, with its tokenizer, such as "
            "language_modeling.py leaves; random weights if not given"
        },
    )


def get_model(
    auto_class: type,
    sizes: Mapping[str, object],
    tokenizer: PreTrainedTokenizerBase,
    pretrained: str | None = None,
    **settings,
) -> PreTrainedModel:
    """The model that training starts from: `pretrained`, or one of random weights.

    Args:
        auto_class: such as `AutoModelForSeq2SeqLM`.
        sizes: the `model:` block of the recipe, with its `preset`.
        settings: more for its configuration, whatever it starts from.

    Raises:
        InputError: `sizes` or the tokenizer do not fit `pretrained`.
    """
    words = ("bos_token_id", "pad_token_id", "eos_token_id")
    settings |= {name: getattr(tokenizer, name) for name in words}
    sizes = dict(sizes)
    if pretrained is None:
        preset = sizes.pop("preset", "base")
        config = VanillaTransformerConfig.from_preset(
            preset, **{**sizes, **settings, "vocab_size": len(tokenizer)}
        )
        return auto_class.from_config(config)
    if "preset" in sizes:
        raise InputError("model.preset and pretrained both say how large the model is; leave one out")
    with loading("pretrained", pretrained):
        config = AutoConfig.from_pretrained(pretrained, **sizes, **settings)
        if getattr(config, "vocab_size", None) != len(tokenizer):
            held = f"a vocabulary of {getattr(config, 'vocab_size', 0):,} tokens"
            raise InputError(f"pretrained: {pretrained} has {held}, but the tokenizer has {len(tokenizer):,}")
        try:
            return auto_class.from_pretrained(pretrained, config=config)
        except RuntimeError as error:  # of weights and sizes that do not match
            raise InputError(
                f"pretrained: {pretrained} has other sizes than the model: block asks for"
            ) from error


@contextmanager
def loading(key: str, place: str):
    """What cannot be loaded from `place`, a folder or a name on the Hub, is an error that names the key."""
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError) as error:
        why = "" if Path(place).is_dir() else "there is no such folder here, and on the Hub: "
        raise InputError(f"{key}: {place}: {why}{error}") from error


def get_tokenizer(
    data: TextArguments,
    rows: Dataset | IterableDataset,
    columns: Iterable[str],
    args: TrainingArguments,
    checkpoint: str | None = None,
    max_length: int | None = None,
) -> PreTrainedTokenizerBase:
    """The one that `data.tokenizer` names or the checkpoint holds, else one trained on columns of the rows.

    A trained one is saved in `args.output_dir`, by one process of a machine while the others wait
    (`args.main_process_first`). `max_length` is its `model_max_length`, in tokens.
    """
    stored = data.tokenizer or checkpoint
    if stored is None and args.local_process_index == 0:
        logger.info("training a vocabulary of %d", data.vocab_size)
        texts = text_columns(rows, columns, data.max_tokenizer_samples)
        tokenizer = VanillaTransformerTokenizer.train(texts, data.vocab_size, lowercase=data.lowercase)
        if max_length is not None:
            tokenizer.model_max_length = max_length
        tokenizer.save_pretrained(args.output_dir)
    checkpoint_key = "resume_from_checkpoint" if args.resume_from_checkpoint else "pretrained"
    with loading("tokenizer" if data.tokenizer else checkpoint_key, stored or args.output_dir):
        tokenizer = AutoTokenizer.from_pretrained(stored or args.output_dir)
    given = data.vocab_size != TextArguments.vocab_size
    if stored and not args.resume_from_checkpoint and given and data.vocab_size != len(tokenizer):
        has = f"{stored} has a vocabulary of {len(tokenizer)}"
        logger.warning("vocab_size=%d has no part in this run: %s", data.vocab_size, has)
    return tokenizer


def text_columns(
    dataset: Dataset | IterableDataset, columns: Iterable[str], limit: int | None = None
) -> list[Iterator[str]]:
    """The texts of each column in the first `limit` rows, for a tokenizer's training."""
    rows = dataset if limit is None else dataset.take(limit)

    def texts(column: str) -> Iterator[str]:
        for batch in rows.iter(batch_size=1000):
            yield from batch[column]

    return [texts(column) for column in columns]
