"""`export_ctranslate2`: weights out to CTranslate2, with a proof that they give the same outputs.

Importing this file also registers the configuration with CTranslate2's own converter.
"""

import shutil
import tempfile
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from ..configuration_vanilla_transformer import VanillaTransformerConfig
from ..embeddings import sinusoids
from ..extras import extra
from .checks import end_tokens, never_generated, random_sources
from .weights import ConversionError

with extra("export"):
    import ctranslate2
    from ctranslate2.converters.transformers import _SUPPORTED_ACTIVATIONS, BartLoader, register_loader
    from ctranslate2.specs import transformer_spec

PRECISIONS = {"float32": None, "bfloat16": "bfloat16", "int8": "int8"}  # -> CTranslate2's quantization
SENTENCES, LONGEST, BEAMS = 100, 60, (1, 4)
POSITIONS = 1024  # computed ones: CTranslate2 reads at most as many tokens as its table has
BANNED = -1e9  # bias of a word that is never generated


@dataclass
class Exported:
    """What the checks of an export found, as (what, equal outputs, outputs)."""

    folder: Path
    checks: list[tuple[str, int, int]] = field(default_factory=list)

    def __str__(self) -> str:
        return "\n".join(
            f"{equal} of {total} outputs are equal: {what}" for what, equal, total in self.checks
        )


@register_loader("VanillaTransformerConfig")
class VanillaTransformerLoader(BartLoader):
    """Tells CTranslate2 where the weights of this package's translation models belong."""

    architecture_name = "AutoModelForSeq2SeqLM"

    def get_model_spec(self, model: Any) -> transformer_spec.TransformerSpec:
        config: VanillaTransformerConfig = model.config
        refuse(config)
        has_norm = has_final_norm(config)
        spec = transformer_spec.TransformerSpec.from_config(
            (config.encoder_layers, config.decoder_layers),
            config.num_attention_heads,
            pre_norm=config.norm_position == "pre",
            no_final_norm=not has_norm,
            activation=_SUPPORTED_ACTIVATIONS[config.activation],
        )
        for stack_spec, stack in ((spec.encoder, model.model.encoder), (spec.decoder, model.model.decoder)):
            if has_norm:
                self.set_layer_norm(stack_spec.layer_norm, stack.norm)
            self.set_stack(stack_spec, stack, config)
        self.set_linear(spec.decoder.projection, model.lm_head)
        banned = sorted(never_generated(model.generation_config) - set(end_tokens(config)))
        if banned:
            bias = model.lm_head.bias
            bias = torch.zeros(config.output_vocab_size) if bias is None else bias.detach().clone()
            bias[banned] = BANNED
            spec.decoder.projection.bias = bias
        return spec

    def set_stack(self, spec: Any, stack: Any, config: VanillaTransformerConfig) -> None:
        spec.scale_embeddings = config.hidden_size**0.5
        embeddings = spec.embeddings[0] if isinstance(spec.embeddings, list) else spec.embeddings
        self.set_embeddings(embeddings, stack.embed_tokens)
        learned = getattr(stack.embed_positions, "weight", None)
        positions = torch.arange(max(config.max_position_embeddings, POSITIONS))
        spec.position_encodings.encodings = (
            sinusoids(positions, config.hidden_size) if learned is None else learned
        )
        for layer_spec, layer in zip(spec.layer, stack.layers):
            blocks = [(layer_spec.self_attention, layer.self_attn, layer.self_attn_add_norm, True)]
            if hasattr(layer, "cross_attn"):
                blocks.append((layer_spec.attention, layer.cross_attn, layer.cross_attn_add_norm, False))
            for block_spec, attention, add_norm, is_self in blocks:
                self.set_attention(block_spec, Renamed(attention), self_attention=is_self)
                self.set_layer_norm(block_spec.layer_norm, add_norm.norm)
            self.set_linear(layer_spec.ffn.linear_0, layer.feed_forward.fc1)
            self.set_linear(layer_spec.ffn.linear_1, layer.feed_forward.fc2)
            self.set_layer_norm(layer_spec.ffn.layer_norm, layer.feed_forward_add_norm.norm)

    def get_vocabulary(self, model: Any, tokenizer: PreTrainedTokenizerBase) -> list[str]:
        return vocabulary(tokenizer, model.config.vocab_size)

    def set_vocabulary(self, spec: Any, tokens: list[str]) -> None:
        spec.register_source_vocabulary(tokens)
        spec.register_target_vocabulary(tokens)

    def set_config(self, config: Any, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        names = vocabulary(tokenizer, model.config.vocab_size)
        config.decoder_start_token = names[model.config.decoder_start_token_id]
        config.bos_token = config.decoder_start_token
        config.eos_token = names[end_tokens(model.config)[0]]
        unknown = tokenizer.unk_token_id
        config.unk_token = names[model.config.pad_token_id if unknown is None else unknown]
        config.layer_norm_epsilon = model.config.layer_norm_eps


class Renamed:
    """An attention with the names of BART."""

    def __init__(self, attention: Any):
        self.q_proj, self.k_proj, self.v_proj = attention.q_proj, attention.k_proj, attention.v_proj
        self.out_proj = attention.o_proj


def has_final_norm(config: VanillaTransformerConfig) -> bool:
    return config.norm_position == "pre" if config.final_norm is None else config.final_norm


def refuse(config: VanillaTransformerConfig) -> None:
    """Raises ConversionError for what CTranslate2 cannot compute."""
    width = config.num_attention_heads * (config.head_dim or 0)
    reasons = {
        f"norm_type={config.norm_type!r}": config.norm_type != "layer",
        f"value_dim={config.value_dim} is not head_dim={config.head_dim}": config.value_dim
        != config.head_dim,
        f"num_attention_heads * head_dim = {width} is not hidden_size={config.hidden_size}": width
        != config.hidden_size,
        "norm_position='post' with final_norm": config.norm_position == "post" and has_final_norm(config),
        f"activation={config.activation!r}": config.activation not in _SUPPORTED_ACTIVATIONS,
        "target_vocab_size: two vocabularies": config.target_vocab_size is not None,
        "more than one end token": len(end_tokens(config)) > 1,
    }
    if found := [reason for reason, holds in reasons.items() if holds]:
        raise ConversionError(f"CTranslate2 cannot compute this model: {'; '.join(found)}")


def vocabulary(tokenizer: PreTrainedTokenizerBase, size: int) -> list[str]:
    """A name for each id; rows of the embeddings that no token uses get names of their own."""
    known = min(size, len(tokenizer))
    names = [str(token) for token in tokenizer.convert_ids_to_tokens(list(range(known)))]
    names += [f"<unused{index}>" for index in range(known, size)]
    if len(set(names)) < len(names):
        raise ConversionError(
            "the tokenizer has two ids of the same token; CTranslate2 needs different names"
        )
    return names


def export_ctranslate2(
    source: str | PathLike,
    output_dir: str | PathLike,
    precision: str = "float32",
    sentences: list[str] | None = None,
) -> Exported:
    """Converts a translation model of this package to CTranslate2, and compares the outputs of both.

    Args:
        source: a folder, or a name on the Hub.
        output_dir: a new folder for CTranslate2's files and the tokenizer.
        precision: "float32", "bfloat16" or "int8", of the weights in the new folder.
        sentences: to translate with both; by default 100 sources of random words.

    Raises:
        ConversionError: CTranslate2 cannot compute this model, or gives other outputs in float32. Nothing is
            written then.
        FileExistsError: `output_dir` exists.
    """
    if precision not in PRECISIONS:
        raise ConversionError(f"precision={precision!r} is unknown: use one of {', '.join(PRECISIONS)}")
    output_dir = Path(output_dir)
    if output_dir.exists():
        raise FileExistsError(f"{output_dir} exists: name a new folder")
    model: Any = AutoModelForSeq2SeqLM.from_pretrained(source, dtype=torch.float32).eval()
    if not isinstance(model.config, VanillaTransformerConfig):
        raise ConversionError(
            f"{source} is a {type(model).__name__}: import it first, with `vanilla-transformer import`"
        )
    tokenizer: Any = AutoTokenizer.from_pretrained(source)
    with tempfile.TemporaryDirectory() as folder:
        convert(model, tokenizer, Path(folder, "float32"), None)
        sources = tokenized(model, tokenizer, sentences)
        exported = Exported(output_dir)
        settings = {beams: plain_settings(model, beams) for beams in BEAMS}
        expected = {beams: generated(model, sources, settings[beams]) for beams in BEAMS}
        compare(exported, Path(folder, "float32"), model, tokenizer, sources, expected, "float32")
        if wrong := [check for check in exported.checks if check[1] < check[2]]:
            raise ConversionError(f"the export is not exact, and nothing was written: {wrong}\n{exported}")
        saved = Path(folder, precision)
        if precision != "float32":
            convert(model, tokenizer, saved, PRECISIONS[precision])
            compare(exported, saved, model, tokenizer, sources, expected, precision)
        tokenizer.save_pretrained(saved)
        shutil.copytree(saved, output_dir)
    return exported


def convert(model: Any, tokenizer: Any, folder: Path, quantization: str | None) -> None:
    with torch.no_grad():
        spec = VanillaTransformerLoader()(model, tokenizer)
    spec.validate()
    spec.optimize(quantization=quantization)
    folder.mkdir()
    spec.save(str(folder))


def tokenized(model: Any, tokenizer: Any, sentences: list[str] | None) -> list[list[int]]:
    if sentences is not None:
        return [tokenizer(sentence)["input_ids"] for sentence in sentences if sentence.strip()]
    batch = random_sources(model, SENTENCES)
    return [ids[mask.bool()].tolist() for ids, mask in zip(batch["input_ids"], batch["attention_mask"])]


def plain_settings(model: Any, beams: int) -> GenerationConfig:
    """Search as CTranslate2 does it: it ends with as many outputs as beams, and compares sums."""
    config = model.config
    return GenerationConfig(
        num_beams=beams,
        length_penalty=0.0 if beams > 1 else 1.0,
        early_stopping=beams > 1,
        max_new_tokens=LONGEST,
        bad_words_ids=model.generation_config.bad_words_ids,
        suppress_tokens=model.generation_config.suppress_tokens,
        bos_token_id=config.bos_token_id,
        pad_token_id=config.pad_token_id,
        eos_token_id=config.eos_token_id,
        decoder_start_token_id=config.decoder_start_token_id,
    )


@torch.no_grad()
def generated(model: Any, sources: list[list[int]], settings: GenerationConfig) -> list[list[int]]:
    """The ids of each output without its end token."""
    end, found = end_tokens(model.config)[0], []
    model.generation_config = settings  # as an argument it would be completed with the model's own
    for ids in sources:
        output = model.generate(torch.tensor([ids]))[0, 1:].tolist()
        found.append(output[: output.index(end)] if end in output else output)
    return found


def compare(
    exported: Exported,
    folder: Path,
    model: Any,
    tokenizer: Any,
    sources: list[list[int]],
    expected: dict[int, list[list[int]]],
    precision: str,
) -> None:
    names = vocabulary(tokenizer, model.config.vocab_size)
    ids = {name: id for id, name in enumerate(names)}
    translator = ctranslate2.Translator(str(folder), device="cpu")
    for beams, outputs in expected.items():
        results = translator.translate_batch(
            [[names[id] for id in source] for source in sources],
            beam_size=beams,
            length_penalty=0,
            max_decoding_length=LONGEST,
            max_input_length=0,
        )
        found = [[ids[token] for token in result.hypotheses[0]] for result in results]
        equal = sum(one == other for one, other in zip(found, outputs))
        exported.checks.append(
            (f"{precision}, {'greedy' if beams == 1 else f'{beams} beams'}", equal, len(outputs))
        )
