"""`export_ctranslate2`: weights out to CTranslate2, with a proof that they give the same outputs.

Importing this file also registers the configuration with CTranslate2's own converter.
"""

import operator
import shutil
import tempfile
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
)

from ..configuration_vanilla_transformer import VanillaTransformerConfig
from ..embeddings import sinusoids
from ..extras import extra
from .checks import end_tokens, never_generated, random_sources
from .weights import ConversionError

with extra("export"):
    import ctranslate2
    from ctranslate2.converters.transformers import _SUPPORTED_ACTIVATIONS, BartLoader, register_loader
    from ctranslate2.specs import transformer_spec

Vocabularies = tuple[list[str], list[str]]  # the names of all ids of source and target
PRECISIONS = {"float32": None, "bfloat16": "bfloat16", "int8": "int8"}  # -> CTranslate2's quantization
SENTENCES, LONGEST, BEAMS = 100, 60, (1, 4)
TOLERANCE = 1e-4  # of a log-probability in float32, relative where it is above 1
TRIES = 8  # searches with rounding noise, to find out whether another output is a tie
POSITIONS = 1024  # computed ones: CTranslate2 reads at most as many tokens as its table has
BANNED = -1e9  # bias of a word that is never generated


@dataclass
class Check:
    """Outputs of CTranslate2 beside those of this package, `total` of them.

    Args:
        what: precision and search.
        equal: how many are the same, token for token.
        ties: how many others are as good: rounding alone decides between them and those of this package.
    """

    what: str
    equal: int
    ties: int
    total: int

    def __str__(self) -> str:
        ties = f" and {self.ties} are ties" if self.ties else ""
        return f"{self.equal} of {self.total} outputs are equal{ties}: {self.what}"


@dataclass
class Exported:
    """What the checks of an export found.

    Args:
        difference: the largest difference of a token's log-probability in float32, relative where that is
            above 1.
    """

    folder: Path
    difference: float = 0.0
    checks: list[Check] = field(default_factory=list)

    def __str__(self) -> str:
        first = f"log-probabilities in float32 differ by {self.difference:.0e} at most"
        return "\n".join([first, *map(str, self.checks)])


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

    def get_vocabulary(self, model: Any, tokenizer: PreTrainedTokenizerBase) -> Vocabularies:
        return vocabularies(model.config, tokenizer)

    def set_vocabulary(self, spec: Any, tokens: Vocabularies) -> None:
        spec.register_source_vocabulary(tokens[0])
        spec.register_target_vocabulary(tokens[1])

    def set_config(self, config: Any, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        source, target = vocabularies(model.config, tokenizer)
        config.decoder_start_token = target[model.config.decoder_start_token_id]
        config.bos_token = config.decoder_start_token
        config.eos_token = target[end_tokens(model.config)[0]]
        unknown = tokenizer.unk_token_id
        config.unk_token = source[model.config.pad_token_id if unknown is None else unknown]
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
        "more than one end token": len(end_tokens(config)) > 1,
    }
    if found := [reason for reason, holds in reasons.items() if holds]:
        raise ConversionError(f"CTranslate2 cannot compute this model: {'; '.join(found)}")


def vocabularies(config: VanillaTransformerConfig, tokenizer: PreTrainedTokenizerBase) -> Vocabularies:
    """A name for each id of source and target; ids without a token get names of their own."""
    source = {id: word for word, id in tokenizer.get_vocab().items()}
    own = getattr(tokenizer, "decoder", None)  # of tokenizers with two vocabularies, as of Marian
    target = own if isinstance(own, dict) else source
    named = zip((source, target), (config.vocab_size, config.output_vocab_size))
    names = [[str(side.get(id, f"<unused{id}>")) for id in range(size)] for side, size in named]
    if any(len({*side}) < len(side) for side in names):
        raise ConversionError(
            "the tokenizer has two ids of the same token; CTranslate2 needs different names"
        )
    return names[0], names[1]


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
        names = vocabularies(model.config, tokenizer)
        exact = Translations(Path(folder, "float32"), names)
        expected = {beams: generated(model, sources, plain_settings(model, beams)) for beams in BEAMS}
        exported.difference = difference_of_scores(model, exact, sources, expected[BEAMS[0]])
        for beams, outputs in expected.items():
            exported.checks.append(compare(model, exact, sources, outputs, beams, exported.difference))
        if exported.difference > TOLERANCE or any(c.equal + c.ties < c.total for c in exported.checks):
            raise ConversionError(f"the export is not exact, and nothing was written:\n{exported}")
        saved = Path(folder, precision)
        if precision != "float32":
            convert(model, tokenizer, saved, PRECISIONS[precision])
            rounded = Translations(saved, names)
            for beams, outputs in expected.items():
                equal = sum(map(operator.eq, rounded.translate(sources, beams), outputs))
                exported.checks.append(Check(f"{precision}, {search_name(beams)}", equal, 0, len(outputs)))
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
        found = [tokenizer(sentence)["input_ids"] for sentence in sentences if sentence.strip()]
        if not found:
            raise ValueError("there are no sentences to compare the export with")
        return found
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
def generated(
    model: Any, sources: list[list[int]], settings: GenerationConfig, noise: "Noise | None" = None
) -> list[list[int]]:
    """The ids of each output without its end token."""
    end, found = end_tokens(model.config)[0], []
    model.generation_config = settings  # as an argument it would be completed with the model's own
    processors = LogitsProcessorList([] if noise is None else [noise])
    for ids in sources:
        output = model.generate(torch.tensor([ids]), logits_processor=processors)[0, 1:].tolist()
        found.append(output[: output.index(end)] if end in output else output)
    return found


class Noise(LogitsProcessor):
    """Adds random numbers of at most this size to logits, as another order of sums does."""

    def __init__(self, size: float, seed: int):
        self.size, self.random = size, torch.Generator().manual_seed(seed)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores + self.size * (2 * torch.rand(scores.shape, generator=self.random) - 1)


class Translations:
    """A folder of CTranslate2, with ids in and out."""

    def __init__(self, folder: Path, names: Vocabularies):
        self.names, self.ids = names, {name: id for id, name in enumerate(names[1])}
        self.translator = ctranslate2.Translator(str(folder), device="cpu")

    def words(self, rows: list[list[int]], side: int) -> list[list[str]]:
        return [[self.names[side][id] for id in row] for row in rows]

    def translate(self, sources: list[list[int]], beams: int) -> list[list[int]]:
        results = self.translator.translate_batch(
            self.words(sources, 0),
            beam_size=beams,
            length_penalty=0,
            max_decoding_length=LONGEST,
            max_input_length=0,
        )
        return [[self.ids[token] for token in result.hypotheses[0]] for result in results]

    def log_probabilities(self, sources: list[list[int]], targets: list[list[int]]) -> list[list[float]]:
        """Of each token of each target, the end token last."""
        results = self.translator.score_batch(
            self.words(sources, 0), self.words(targets, 1), max_input_length=0
        )
        return [result.log_probs for result in results]


@torch.no_grad()
def forced(model: Any, source: list[int], target: list[int]) -> torch.Tensor:
    """The log-probabilities of all words at each step of this target, and after it: `(length + 1, words)`."""
    inputs = torch.tensor([[model.config.decoder_start_token_id, *target]])
    logits = model(torch.tensor([source]), decoder_input_ids=inputs).logits[0]
    logits[:, sorted(never_generated(model.generation_config))] = -torch.inf
    return logits.log_softmax(-1)


def difference_of_scores(
    model: Any, exact: Translations, sources: list[list[int]], targets: list[list[int]]
) -> float:
    """The largest difference between the log-probabilities of both, relative where they are above 1."""
    largest = 0.0
    for source, target, theirs in zip(sources, targets, exact.log_probabilities(sources, targets)):
        chosen = torch.tensor([*target, end_tokens(model.config)[0]])
        ours = forced(model, source, target).gather(1, chosen[:, None])[:, 0]
        gap = (ours - torch.tensor(theirs)).abs() / ours.abs().clamp(min=1)
        largest = max(largest, float(gap.max()))
    return largest


def compare(
    model: Any,
    exact: Translations,
    sources: list[list[int]],
    expected: list[list[int]],
    beams: int,
    difference: float,
) -> Check:
    """Compares outputs in float32, and tells ties from other outputs that differ.

    Args:
        difference: of the log-probabilities of both, by rounding; see `difference_of_scores`.
    """
    found, size = exact.translate(sources, beams), 2 * max(difference, 1e-6)
    differ = [rows for rows in zip(sources, expected, found) if rows[1] != rows[2]]
    ties = sum(is_tie(model, *rows, beams, size) for rows in differ)
    return Check(f"float32, {search_name(beams)}", len(found) - len(differ), ties, len(found))


def is_tie(
    model: Any, source: list[int], ours: list[int], theirs: list[int], beams: int, size: float
) -> bool:
    """Whether rounding of this size leads from one output to the other.

    Greedy: each word of theirs is the most probable one, up to rounding. Beams: both outputs have the same
    score. Or a hypothesis was lost on the way, because another one was as good: then our search finds theirs
    when noise is added to the logits.
    """
    scores, end = [], end_tokens(model.config)[0]
    for output in (ours, theirs):
        log_probs = forced(model, source, output)
        words = torch.tensor([*output, end][:LONGEST])
        chosen = log_probs[: len(words)].gather(1, words[:, None])[:, 0]
        scores.append(chosen.sum())
    if beams == 1:
        best = log_probs[: len(words)].amax(1)
        return bool((best - chosen <= size * best.abs().clamp(min=1)).all())
    if abs(scores[0] - scores[1]) <= size * max(1.0, abs(float(scores[0]))):
        return True
    settings = plain_settings(model, beams)
    noises = (Noise(size, seed) for seed in range(TRIES))
    return any(generated(model, [source], settings, noise) == [theirs] for noise in noises)


def search_name(beams: int) -> str:
    return "greedy" if beams == 1 else f"{beams} beams"
