"""Marian models of transformers, such as OPUS-MT, with their SentencePiece tokenizers."""

from os import PathLike
from typing import Any

import torch
from transformers import MarianConfig, MarianMTModel, MarianTokenizer
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from ..extras import extra
from .parts import Parts, dropout_notes
from .reading import has_file, require_files
from .weights import (
    FAIRSEQ_NAMES,
    ConversionError,
    half_split_sinusoids,
    has_half_split_sinusoids,
    pop,
    refuse,
    rename,
    require_equal,
    translation_model,
)

TOKENIZER = ("source.spm", "target.spm", "vocab.json")


def import_marian(source: str | PathLike) -> Parts:
    """A folder or Hub name of a `MarianMTModel`; the tokenizer stays Marian's own."""
    require_files(source, "config.json")
    config: Any = MarianConfig.from_pretrained(source)
    refuse(
        source,
        encoder_layerdrop=config.encoder_layerdrop,
        decoder_layerdrop=config.decoder_layerdrop,
        # Marian's own options, which its converter writes; transformers ignores them.
        normalize_before=getattr(config, "normalize_before", False),
        normalize_embedding=getattr(config, "normalize_embedding", False),
        add_final_layer_norm=getattr(config, "add_final_layer_norm", False),
    )
    require_equal(
        source,
        ffn_dim=(config.encoder_ffn_dim, config.decoder_ffn_dim),
        attention_heads=(config.encoder_attention_heads, config.decoder_attention_heads),
    )
    original: Any = MarianMTModel.from_pretrained(source, dtype=torch.float32).eval()
    weights = rename(original.state_dict(), FAIRSEQ_NAMES)
    notes = []
    for stack in ("encoder", "decoder"):
        table = pop(weights, f"model.{stack}.embed_positions.weight", source)
        if not has_half_split_sinusoids(table):
            raise ConversionError(f"{source} has learned positions in the {stack}; Marian's are sinusoids")
        exact = half_split_sinusoids(*table.shape)
        if (table - exact).abs().max() > 1e-5:
            notes.append(f"the positions of the {stack} are stored in half precision; here they are exact")
            getattr(original.model, stack).embed_positions.weight.data.copy_(exact)
    weights.pop("model.shared.weight", None)
    embeddings = [
        pop(weights, name, source)
        for name in (
            "model.encoder.embed_tokens.weight",
            "model.decoder.embed_tokens.weight",
            "lm_head.weight",
        )
    ]
    fields = {
        "intermediate_size": config.encoder_ffn_dim,
        "num_attention_heads": config.encoder_attention_heads,
        "encoder_layers": config.encoder_layers,
        "decoder_layers": config.decoder_layers,
        "dropout": config.dropout,
        "activation": config.activation_function,
        "max_position_embeddings": config.max_position_embeddings,
        "bos_token_id": config.bos_token_id,
        "pad_token_id": config.pad_token_id,
        "eos_token_id": config.eos_token_id,
        "decoder_start_token_id": config.decoder_start_token_id,
    }
    model = translation_model(
        source,
        fields,
        weights,
        embeddings,
        output_bias=pop(weights, "final_logits_bias", source),
        embedding_scale=config.d_model**0.5 if config.scale_embedding else 1.0,
        has_half_split=True,
    )
    model.generation_config = original.generation_config  # with its search, banned words and lengths
    notes += dropout_notes(config.to_dict())
    tokenizer = None
    if any(has_file(source, name) for name in TOKENIZER):
        tokenizer = read_tokenizer(source)
    else:
        notes.append(f"no tokenizer: {source} has no {', '.join(TOKENIZER)}")
    return Parts(model, tokenizer, original, notes)


def read_tokenizer(source: str | PathLike) -> MarianTokenizer:
    """Raises ConversionError if one of its files is missing or cannot be read."""
    with extra("interop"):
        import sentencepiece  # noqa: F401  # MarianTokenizer needs it
    try:
        has_two = get_tokenizer_config(source).get("separate_vocabs")
        require_files(source, *TOKENIZER, *["target_vocab.json"] * bool(has_two))
        return MarianTokenizer.from_pretrained(source)
    except ConversionError:
        raise
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise ConversionError(f"the tokenizer of {source} cannot be read: {error}") from error
