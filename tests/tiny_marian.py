"""Tiny Marian models with tokenizers whose SentencePiece models are trained on the shipped corpus."""

import json
from functools import cache
from pathlib import Path

import pyarrow.parquet as parquet
import torch
from transformers import GenerationConfig, MarianConfig, MarianMTModel, MarianTokenizer

import vanilla_transformer

CORPUS = Path(vanilla_transformer.__file__).parent / "corpora" / "bible_en_es" / "train.parquet"
TAGS = [">>spa<<", ">>fra<<"]


@cache
def texts(language: str) -> list[str]:
    return parquet.read_table(CORPUS, columns=[language])[language].to_pylist()[:2000]


def train_sentencepiece(
    folder: Path, name: str, language: str, size: int, kind: str = "unigram"
) -> list[str]:
    """Writes `<name>.spm` and returns its pieces."""
    import sentencepiece

    prefix = folder / name
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts(language)),
        model_prefix=str(prefix),
        vocab_size=size,
        model_type=kind,
        character_coverage=1.0,
        minloglevel=2,
    )
    prefix.with_suffix(".model").rename(prefix.with_suffix(".spm"))
    prefix.with_suffix(".vocab").unlink()
    model = sentencepiece.SentencePieceProcessor(str(prefix.with_suffix(".spm")))
    return [model.IdToPiece(index) for index in range(model.GetPieceSize())]


def write_tokenizer(folder: Path, separate: bool = False) -> MarianTokenizer:
    """An OPUS-MT tokenizer: `</s>` is 0, `<unk>` 1, then the pieces, language tags, and `<pad>` is last."""
    source = train_sentencepiece(folder, "source", "en", 300)
    target = train_sentencepiece(folder, "target", "es", 350)

    def vocabulary(*pieces: str) -> dict[str, int]:
        words = dict.fromkeys(
            ["</s>", "<unk>", *(piece for piece in pieces if piece != "<s>"), *TAGS, "<pad>"]
        )
        return {word: index for index, word in enumerate(words)}

    more = {}
    if separate:
        (folder / "vocab.json").write_text(json.dumps(vocabulary(*source)))
        # Marian shares the ids of the special tokens: both start with them, and <pad> needs one id.
        (folder / "target_vocab.json").write_text(json.dumps(vocabulary(*target[: len(source)])))
        more = {"separate_vocabs": True, "target_vocab_file": str(folder / "target_vocab.json")}
    else:
        (folder / "vocab.json").write_text(json.dumps(vocabulary(*source, *target)))
    tokenizer = MarianTokenizer(
        str(folder / "source.spm"),
        str(folder / "target.spm"),
        str(folder / "vocab.json"),
        source_lang="en",
        target_lang="es",
        **more,
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def write_marian(
    folder: Path, separate: bool = False, with_tokenizer: bool = True, **changes
) -> MarianMTModel:
    """A folder as `opus-mt-en-es` is one, with random weights, biases, norms and logits bias."""
    folder.mkdir(parents=True, exist_ok=True)
    words = target_words = 101
    if with_tokenizer:
        tokenizer = write_tokenizer(folder, separate)
        words = target_words = len(tokenizer.encoder)
        if separate:
            target_words = len(tokenizer.target_encoder)
    pad = changes.get("pad_token_id", words - 1)
    settings = {
        "vocab_size": words,
        "decoder_vocab_size": target_words,
        "share_encoder_decoder_embeddings": not separate,
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 3,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "activation_function": "swish",
        "scale_embedding": True,
        "max_position_embeddings": 64,
        "pad_token_id": pad,
        "decoder_start_token_id": pad,
        "eos_token_id": 0,
        "forced_eos_token_id": 0,
    }
    torch.manual_seed(0)
    model = MarianMTModel(MarianConfig(**settings | changes)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embed_positions" not in name:
                is_small = not model.config.scale_embedding and ("embed" in name or "shared" in name)
                parameter.add_(torch.randn_like(parameter) * (0.8 if is_small else 0.35))
        model.final_logits_bias += torch.randn_like(model.final_logits_bias)
    model.generation_config = GenerationConfig(
        num_beams=4,
        max_length=48,
        bad_words_ids=[[pad]],
        pad_token_id=pad,
        decoder_start_token_id=pad,
        eos_token_id=0,
        forced_eos_token_id=0,
        renormalize_logits=True,
    )
    model.save_pretrained(folder)
    return model
