"""Small encoder-decoders of several families with their tokenizers, and pipelines with them."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    pipeline,
)

from vanilla_transformer import (
    VanillaTransformerConfig,
    VanillaTransformerForConditionalGeneration,
    VanillaTransformerTokenizer,
)

TEXTS = ["the quick fox", "a lazy dog sleeps", "the dog", "over the fence jumps the quick brown fox"]
WORDS = [*" ".join(TEXTS).split(), ".", ":", "translate", "English", "to", "German", "Romanian"]
SIZES = dict(
    d_model=16,
    encoder_layers=1,
    decoder_layers=1,
    encoder_attention_heads=2,
    decoder_attention_heads=2,
    encoder_ffn_dim=32,
    decoder_ffn_dim=32,
    pad_token_id=0,
    eos_token_id=1,
    bos_token_id=0,
    decoder_start_token_id=0,
    forced_eos_token_id=1,
)


def word_tokenizer() -> PreTrainedTokenizerFast:
    vocab = {word: index for index, word in enumerate(["<pad>", "</s>", "<unk>", *dict.fromkeys(WORDS)])}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def vanilla(language_tags=(), **config):
    tokenizer = VanillaTransformerTokenizer.train(
        [TEXTS], vocab_size=290, language_tags=language_tags, min_frequency=1, show_progress=False
    )
    sizes = dict(
        hidden_size=16, intermediate_size=32, num_attention_heads=2, encoder_layers=1, decoder_layers=1
    )
    config = VanillaTransformerConfig(vocab_size=len(tokenizer), **{**sizes, **config})
    torch.manual_seed(0)
    return VanillaTransformerForConditionalGeneration(config).eval(), tokenizer


def marian(**config):
    tokenizer = word_tokenizer()
    torch.manual_seed(0)
    config = MarianConfig(vocab_size=len(tokenizer), **{**SIZES, "max_position_embeddings": 64, **config})
    return MarianMTModel(config).eval(), tokenizer


def t5(**config):
    tokenizer = word_tokenizer()
    torch.manual_seed(0)
    sizes = dict(d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    config = T5Config(vocab_size=len(tokenizer), decoder_start_token_id=0, **sizes, **config)
    return T5ForConditionalGeneration(config).eval(), tokenizer


def bart():
    tokenizer = word_tokenizer()
    torch.manual_seed(0)
    config = BartConfig(vocab_size=len(tokenizer), **SIZES, max_position_embeddings=64)
    return BartForConditionalGeneration(config).eval(), tokenizer


FAMILIES = {"vanilla": vanilla, "marian": marian, "t5": t5, "bart": bart}


def make(task, parts, **kwargs):
    model, tokenizer = parts
    return pipeline(task, model=model, tokenizer=tokenizer, device="cpu", **{"max_new_tokens": 6, **kwargs})
