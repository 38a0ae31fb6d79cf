"""What every recipe for text starts with: its settings, its tokenizer and its model."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainingArguments,
)

from ..configuration_vanilla_transformer import VanillaTransformerConfig
from ..interop import vocabulary
from ..tokenization_vanilla_transformer import VanillaTransformerTokenizer
from .settings import InputError
from .sources import Rows, SourceArguments, first_rows

logger = logging.getLogger(__name__)

HEAD = "classifier."  # the names of a classifier's own weights begin with it


@dataclass
class TextArguments(SourceArguments):
    """The texts to load, and how to encode them."""

    tokenizer: str | None = field(
        default=None,
        metadata={
            "help": "folder or Hub name of a tokenizer; if not given, a vocabulary is trained on the data"
        },
    )
    vocab_size: int = field(default=37000, metadata={"help": "tokens in the vocabulary to train"})
    max_tokenizer_samples: int | None = field(
        default=None,
        metadata={
            "help": "number of training rows to train the vocabulary on, from the first on; all if not given"
        },
    )
    lowercase: bool = field(
        default=False, metadata={"help": "train a lower-case vocabulary, and ignore case in the scores"}
    )
    preprocessing_workers: int | None = field(
        default=None, metadata={"help": "number of processes that encode the texts; one if not given"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.vocab_size <= 10**7:
            raise InputError(f"vocab_size={self.vocab_size} must be at least 2 and at most {10**7:,}")


@dataclass
class StartArguments:
    """The weights that training starts from. With do_train=false they are those in output_dir."""

    _argument_group_name = "start"

    pretrained: str | None = field(
        default=None,
        metadata={
            "help": "folder or Hub name of a model of this package to fine-tune, with its tokenizer, for "
            "example one trained with language_modeling.py or imported with vanilla_transformer.interop; "
            "random weights if not given"
        },
    )


def get_model(
    auto_class: Any,
    sizes: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    pretrained: str | None = None,
    **settings: Any,
) -> PreTrainedModel:
    """Load the model `pretrained`, or build one with random weights.

    Args:
        auto_class: such as `AutoModelForSeq2SeqLM`.
        sizes: the `model:` block of the recipe, with its `preset`.
        settings: further fields of the config, for loaded and for new models.

    Raises:
        InputError: `sizes` or the tokenizer do not fit `pretrained`.
    """
    special = ("bos_token_id", "pad_token_id", "eos_token_id")
    settings |= {name: getattr(tokenizer, name) for name in special}
    sizes = dict(sizes)
    if pretrained is None:
        preset = sizes.pop("preset", "base")
        config = VanillaTransformerConfig.from_preset(
            preset, **{**sizes, **settings, "vocab_size": len(tokenizer)}
        )
        return auto_class.from_config(config)
    if "preset" in sizes:
        raise InputError("model.preset and pretrained both set the sizes of the model; remove one")
    with loading("pretrained", pretrained):
        if getattr(AutoConfig.from_pretrained(pretrained), "decoder_start_token_id", None) is not None:
            settings.pop("decoder_start_token_id", None)  # an imported model starts with its own token
        config = AutoConfig.from_pretrained(pretrained, **sizes, **settings)
        if getattr(config, "vocab_size", None) != len(tokenizer):
            held = f"a vocabulary of {getattr(config, 'vocab_size', 0):,} tokens"
            raise InputError(
                f"pretrained: {pretrained} has {held}, but the tokenizer has {len(tokenizer):,}; "
                "give a model of text and its own tokenizer"
            )
        model, loaded = auto_class.from_pretrained(
            pretrained, config=config, ignore_mismatched_sizes=True, output_loading_info=True
        )
        replaced = {key for key, *_ in loaded["mismatched_keys"]}
        if not all(key.startswith(HEAD) for key in replaced):
            raise InputError(
                f"pretrained: {pretrained} has other sizes than the model: block asks for; remove them there"
            )
        lacking = [key for key in loaded["missing_keys"] if key.startswith("model.")]  # of the stacks
        if lacking:
            raise InputError(
                f"pretrained: {pretrained} has no {lacking[0]} and so would start with random weights there; "
                "remove from the model: block what changes its layers, or give another model"
            )
        if "id2label" in settings and not any(key.startswith(HEAD) for key in loaded["missing_keys"]):
            _fit_head(model, AutoConfig.from_pretrained(pretrained).id2label, pretrained)
        return model


def _fit_head(model: PreTrainedModel, stored: Mapping[int, str], pretrained: str) -> None:
    """Fit the head of a classifier, which was loaded, to the labels of the model's config.

    It reorders the head's rows if the labels are the `stored` ones in another order, and replaces the head
    if the labels are others.
    """
    names = list((model.config.id2label or {}).values())
    before = [stored[id] for id in sorted(stored)]
    if names == before:
        return
    head: Any = model.get_submodule(HEAD.removesuffix("."))
    if sorted(names) == sorted(before):
        with torch.no_grad():
            order = torch.tensor([before.index(name) for name in names], device=head.weight.device)
            head.weight.copy_(head.weight[order])
            head.bias.copy_(head.bias[order])
        logger.info("pretrained: %s has the same labels in another order; reordered its head", pretrained)
        return
    new: Any = type(model)(model.config).get_submodule(HEAD.removesuffix("."))
    head.load_state_dict(new.state_dict())
    shown = ", ".join(before[:5]) + ", ..." * (len(before) > 5)
    logger.warning(
        "pretrained: %s classifies into %d other labels (%s): its head is replaced by one of %d labels",
        pretrained,
        len(before),
        shown,
        len(names),
    )


@contextmanager
def loading(key: str, place: str) -> Iterator[None]:
    """Turn errors in loading from `place`, a folder or a Hub name, into an InputError that names the key."""
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, SafetensorError, StrictDataclassError) as error:
        why = "" if Path(place).is_dir() else "there is no such folder here, and the Hub says: "
        raise InputError(f"{key}: {place}: {why}{error}") from error


def get_tokenizer(
    data: TextArguments,
    rows: Rows,
    columns: Iterable[str],
    args: TrainingArguments,
    checkpoint: str | None = None,
    max_length: int | None = None,
) -> PreTrainedTokenizerBase:
    """Load the tokenizer `data.tokenizer`, or the checkpoint's, or train one on these columns of the rows.

    A trained tokenizer is saved in `args.output_dir`. On each machine one process trains it while the others
    wait, if the caller uses `args.main_process_first`.

    Args:
        max_length: `model_max_length` of a trained tokenizer, in tokens.
    """
    stored = data.tokenizer or checkpoint
    if stored is None and args.local_process_index == 0:
        logger.info("training a vocabulary of %d", data.vocab_size)
        texts = text_columns(rows, columns, data.max_tokenizer_samples)
        trained = VanillaTransformerTokenizer.train(texts, data.vocab_size, lowercase=data.lowercase)
        if max_length is not None:
            trained.model_max_length = max_length
        trained.save_pretrained(str(args.output_dir))
    checkpoint_key = "resume_from_checkpoint" if args.resume_from_checkpoint else "pretrained"
    place = stored or str(args.output_dir)
    with loading("tokenizer" if data.tokenizer else checkpoint_key, place):
        tokenizer = AutoTokenizer.from_pretrained(place)
    chosen = data.vocab_size != TextArguments.vocab_size
    if stored and not args.resume_from_checkpoint and chosen and data.vocab_size != len(tokenizer):
        logger.warning(
            "vocab_size=%d is ignored: the tokenizer of %s has %d tokens",
            data.vocab_size,
            stored,
            len(tokenizer),
        )
    return tokenizer


def extend_vocabulary(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: TextArguments,
    rows: Rows,
    columns: Iterable[str],
    new_tokens: int,
) -> None:
    """Learn new tokens from these columns of the rows, for a tokenizer and model that were loaded.

    Raises:
        InputError: the tokenizer cannot learn, or source and target have separate vocabularies.
    """
    if new_tokens < 0:
        raise InputError(f"extend_vocabulary={new_tokens} must not be negative")
    texts = text_columns(rows, columns, data.max_tokenizer_samples)
    try:
        added = vocabulary.extend_vocabulary(model, tokenizer, texts, new_tokens)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise InputError(f"extend_vocabulary={new_tokens}: {error}") from error
    logger.info("the vocabulary has %d new tokens, %d in all", added, len(tokenizer))


def text_columns(rows: Rows, columns: Iterable[str], limit: int | None = None) -> list[Iterator[str]]:
    """Return an iterator over the texts of each column, in the first `limit` rows."""
    first = first_rows(rows, limit)

    def texts(column: str) -> Iterator[str]:
        for batch in first.iter(batch_size=1000):
            yield from batch[column]

    return [texts(column) for column in columns]
