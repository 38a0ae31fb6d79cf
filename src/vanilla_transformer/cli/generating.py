"""`translate`, `summarize` and `generate`: a pipeline over windows of lines."""

import inspect
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from ..pipeline_batches import intended_length, number_of_positions
from ..terms import UnmetTerms, find_terms
from ..text_files import read_lines
from .lines import Line, Streams, as_one_line, write_record
from .loading import loading
from .verb import USAGE, Stop, report

# Suffixes of documents that would be harmed if read line by line, and their formats.
DOCUMENTS = {".htm": "html", ".html": "html", ".md": "md", ".srt": "srt", ".vtt": "vtt"}
LONGEST_INPUT = 4096  # tokens, for models that state no limit
# Settings of pipelines and of `generate` that change what they return, where a verb writes texts.
RETURNED = {"return_tensors", "return_text", "return_full_text", "return_dict_in_generate"}
RETURNED |= {"output_scores", "output_logits", "output_attentions", "output_hidden_states"}
OWN_OPTIONS = {"return_scores": "--scores", "return_alignments": "--alignments", "markup": "--markup"}
OWN_OPTIONS |= {"ensemble": "--ensemble"}


@dataclass
class Request:
    """What to generate.

    Args:
        task: of `pipeline`.
        model: a folder, or a name on the Hub.
        beams, batch_size: None for the model's, and for batches of 2,048 tokens.
        n_best: outputs for each line.
        beam_groups, diversity_penalty: of diverse beam search.
        sample: draw outputs instead of searching.
        mbr: of how many outputs to write the one with minimum Bayes risk; None for all.
        ensemble: folders of more models.
        scores, alignments: write them with each output.
        terms: a file of translations that outputs must have, source and target with a tab between them.
        forbid: words that no output has.
        truncate: cut long lines instead of reporting them as bad.
        markup: keep the tags and placeholders of lines.
        pipeline_options: more arguments of the pipeline, such as the languages.
    """

    task: str
    model: str
    beams: int | None = None
    n_best: int = 1
    beam_groups: int = 1
    diversity_penalty: float = 0.5
    sample: bool = False
    mbr: int | None = None
    ensemble: list[str] = field(default_factory=list)
    scores: bool = False
    alignments: bool = False
    terms: Path | None = None
    forbid: list[str] = field(default_factory=list)
    precision: str = "fp32"
    batch_size: int | None = None
    device: str | None = None
    truncate: bool = False
    markup: bool = False
    generate_options: dict[str, Any] = field(default_factory=dict)
    pipeline_options: dict[str, Any] = field(default_factory=dict)

    @property
    def candidates(self) -> int:
        """Outputs of the model for each line."""
        return self.mbr or self.n_best

    def check(self) -> None:
        for name, option, given in (
            ("num_beams", "--beam", self.beams is not None),
            ("num_return_sequences", "--n-best" if not self.mbr else "--mbr", self.candidates > 1),
            ("num_beam_groups", "--beam-groups", self.beam_groups > 1),
            ("do_sample", "--sample", self.sample),
            ("terms", "--terms", self.terms is not None),
            ("forbid", "--forbid", bool(self.forbid)),
        ):
            if given and name in self.generate_options:
                raise Stop(f"error: --set {name} and {option} say the same thing: remove one", USAGE)
        for name in self.generate_options:
            if name in OWN_OPTIONS:
                raise Stop(f"error: --set {name}: use {OWN_OPTIONS[name]} instead", USAGE)
            if name in RETURNED:
                raise Stop(f"error: --set {name} asks for other outputs than texts: remove it", USAGE)
        if self.sample and ((self.beams or 1) > 1 or self.beam_groups > 1):
            raise Stop("error: --sample does not search: remove --beam and --beam-groups", USAGE)
        if self.mbr and self.n_best > 1:
            raise Stop("error: --mbr writes one output of a line: remove --n-best", USAGE)
        if self.beams is not None and self.candidates > self.beams and not self.sample:
            option = f"--mbr {self.mbr}" if self.mbr else f"--n-best {self.n_best}"
            raise Stop(f"error: {option} needs --beam {self.candidates} or more", USAGE)
        if self.beams is not None and self.beams % self.beam_groups:
            raise Stop(
                f"error: --beam {self.beams} must be a multiple of --beam-groups {self.beam_groups}", USAGE
            )
        if self.terms and (self.beams == 1 or self.sample):
            raise Stop("error: --terms needs beam search: give --beam 2 or more", USAGE)
        if self.markup and (self.n_best > 1 or self.scores or self.alignments):
            raise Stop("error: --markup writes one text: remove --n-best, --scores and --alignments", USAGE)

    def search(self, usual_beams: int | None) -> dict[str, Any]:
        """Arguments of `generate`; `usual_beams` are those of the model's settings."""
        options: dict[str, Any] = {}
        if self.candidates > 1:
            options["num_return_sequences"] = self.candidates
        if self.sample:
            return {**options, "do_sample": True, "num_beams": 1, "top_k": 0}
        beams = self.beams or max(usual_beams or 4, self.candidates)
        if self.beam_groups > 1:
            beams = -(-beams // self.beam_groups) * self.beam_groups
            options["num_beam_groups"] = self.beam_groups
            options["diversity_penalty"] = self.diversity_penalty
        if self.beams or options:
            options["num_beams"] = beams
        return options


def run(request: Request, streams: Streams, language: str | None = None) -> None:
    request.check()
    if streams.format not in ("text", "jsonl"):
        from .documents import run_document

        run_document(request, streams, language)
        return
    if language is not None:
        raise Stop("error: --language is for documents: give --format txt, md, html, srt or vtt", USAGE)
    streams.check()
    if streams.format == "text" and streams.input and (known := DOCUMENTS.get(streams.input.suffix.lower())):
        report(f"note: {streams.input} is read line by line; --format {known} keeps its markup")
    terms = read_terms(request.terms) if request.terms else {}
    streams.process(Generator(request, streams.format, terms).outputs)


class Generator:
    """A loaded model that turns lines to lines."""

    def __init__(self, request: Request, format: str, terms: dict[str, str]):
        self.request, self.format = request, format
        options = request.pipeline_options | ({"ensemble": request.ensemble} if request.ensemble else {})
        self.pipe = load_pipeline(request.task, request.model, request.device, **options)
        check_settings(self.pipe, request.generate_options)
        for model in (self.pipe.model, *self.pipe.ensemble):
            use_precision(model, request.precision)
        self.longest = longest_input(self.pipe.model, self.pipe.tokenizer)
        self.key = f"{self.pipe.return_name}_text"
        usual_beams = getattr(self.pipe.model.generation_config, "num_beams", None)
        self.options: dict[str, Any] = {**request.search(usual_beams), **request.generate_options}
        if request.mbr:
            self.options["mbr"] = True
        if request.truncate:
            self.options["truncation"] = True
        if request.batch_size:
            self.options["batch_size"] = request.batch_size
        if request.scores:
            self.options["return_scores"] = True
        if request.alignments:
            self.options["return_alignments"] = True
        self.terms, self.forbid = terms, tuple(request.forbid)

    def outputs(self, lines: list[Line]) -> Iterator[bytes]:
        groups: dict[tuple[bool, tuple[str, ...]], list[Order]] = {}
        for line in lines:
            try:
                if line.error is None:
                    order = self.order(line)
                    groups.setdefault((bool(order.terms), order.forbid), []).append(order)
            except ValueError as error:
                line.error = str(error)
        found: dict[int, list[dict[str, Any]]] = {}
        for orders in groups.values():
            found |= self.results(orders)
        return (self.written(line, found.get(line.number, [])) for line in lines)

    def order(self, line: Line) -> "Order":
        """What to generate for a line; raises ValueError if it is too long or if its own terms are bad."""
        text = line.texts[0]
        if not self.request.truncate:
            seen = visible_text(text) if self.request.markup else text
            check_length(self.pipe.tokenizer, self.pipe.prefix + seen, self.longest)
        terms, forbid = (own_terms(line.record), own_forbidden(line.record)) if line.record else ({}, ())
        if terms and self.request.beams == 1:
            raise ValueError("its terms need beam search: give --beam 2 or more")
        find_terms(self.pipe.tokenizer, [text], terms)
        joined = tuple(dict.fromkeys([*self.forbid, *forbid]))
        own = {source.casefold() for source in terms}
        usual = {source: target for source, target in self.terms.items() if source.casefold() not in own}
        return Order(line, {**usual, **terms}, joined)

    def results(self, orders: list["Order"]) -> dict[int, list[dict[str, Any]]]:
        """The outputs by line numbers. If the terms of a line cannot be met, it becomes a bad line."""
        options = dict(self.options)
        if orders[0].terms:
            options["terms"] = [order.terms for order in orders]
        if orders[0].forbid:
            options["forbid"] = list(orders[0].forbid)
        try:
            found = self.generate([order.line.texts[0] for order in orders], options)
        except UnmetTerms as error:
            if len(orders) == 1:
                orders[0].line.error = str(error)
                return {}
            half = len(orders) // 2
            return self.results(orders[:half]) | self.results(orders[half:])
        return {order.line.number: each for order, each in zip(orders, found)}

    def generate(self, texts: list[str], options: dict[str, Any]) -> list[list[dict[str, Any]]]:
        with blaming(self.request.generate_options):
            if self.request.markup:
                from ..documents import translate_markup

                return [[{self.key: text}] for text in translate_markup(self.pipe, texts, **options)]
            return [[each] if isinstance(each, dict) else each for each in self.pipe(texts, **options)]

    def written(self, line: Line, results: list[dict[str, Any]]) -> bytes:
        if self.format == "jsonl":
            if line.error is not None:
                return write_record({**line.record, "error": line.error})
            return write_record({**line.record, **self.columns(results)})
        words = []
        for result in results:
            if self.request.scores:
                words.append(f"{result['score']:.6f}")
            words.append(as_one_line(result[self.key]))
            if self.request.alignments:
                words.append(result["alignment"])
        return ("\t".join(words) + "\n").encode(errors="replace")

    def columns(self, results: list[dict[str, Any]]) -> dict[str, Any]:
        """The entries of a JSON line: one value each, or lists if more than one output was asked for."""
        found: dict[str, list] = {self.key: [result[self.key] for result in results]}
        if self.request.scores:
            for name in ("score", "log_probability"):
                found[name] = [round(result[name], 6) for result in results]
        if self.request.mbr:
            found["utility"] = [round(result["utility"], 6) for result in results]
        if self.request.alignments:
            found["alignment"] = [result["alignment"] for result in results]
        several = self.request.n_best > 1 or len(results) > 1
        return {name: values if several else values[0] for name, values in found.items()}


@dataclass
class Order:
    """A line with the terms of the command and its own."""

    line: Line
    terms: dict[str, str]
    forbid: tuple[str, ...]


def own_terms(record: dict[str, Any]) -> dict[str, str]:
    terms = record.get("terms", {})
    if isinstance(terms, dict) and all(is_word(source) and is_word(terms[source]) for source in terms):
        return terms
    raise ValueError('its "terms" must be an object of texts, such as {"bank": "Ufer"}')


def own_forbidden(record: dict[str, Any]) -> tuple[str, ...]:
    words = record.get("forbid", [])
    if isinstance(words, list) and all(map(is_word, words)):
        return tuple(words)
    raise ValueError('its "forbid" must be a list of texts, such as ["bank"]')


def is_word(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def visible_text(text: str) -> str:
    """What the model sees of a text with markup."""
    from ..documents.inline import read_inline

    return "".join(piece.text for piece in read_inline(text))


def read_terms(path: Path) -> dict[str, str]:
    terms = {}
    for number, line in enumerate(read_lines(path), 1):
        if line.strip():
            columns = [column.strip() for column in line.split("\t")]
            if len(columns) != 2 or not all(columns):
                raise ValueError(f"{path}, line {number}: expected source, tab, target, got {line[:40]!r}")
            terms[columns[0]] = columns[1]
    return terms


def load_pipeline(task: str, model: str, device: str | None = None, **options: Any) -> Any:
    """A pipeline of transformers, without its messages about loading."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    if device is not None:
        options["device"] = device
    try:
        with loading(model):
            return transformers.pipeline(task, model=model, **options)  # type: ignore[call-overload]
    except (AssertionError, RuntimeError) as error:
        if device is None:
            raise
        raise ValueError(f"--device {device}: {error}") from error


def check_settings(pipe: Any, settings: Iterable[str]) -> None:
    """Raises an error for names of texts, tensors and objects of Python, which no shell can give."""
    functions = type(pipe).__call__, type(pipe.model).generate, type(pipe.model).forward
    taken = {name for function in functions for name in inspect.signature(function).parameters}
    taken -= {*vars(GenerationConfig()), "batch_size", "num_workers", "custom_generate"}
    for name in settings:
        if name in taken:
            raise Stop(f"error: --set {name}: it is an input or an object of Python: remove it", USAGE)


@contextmanager
def blaming(settings: dict[str, Any]) -> Iterator[None]:
    """Names the values of `--set` if generation fails: transformers does not check their types."""
    try:
        yield
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError) as error:
        if not settings:
            raise
        given = " ".join(f"{name}={value!r}" for name, value in settings.items())
        raise ValueError(f"generation failed with --set {given}: {type(error).__name__}: {error}") from error


def longest_input(model: Any, tokenizer: Any) -> int:
    """The most tokens of a line, from the tokenizer, the config and the table of positions."""
    encoder_decoder = model.config.is_encoder_decoder
    limit = min(
        intended_length(model, tokenizer), number_of_positions(model) if encoder_decoder else math.inf
    )
    return int(limit) if math.isfinite(limit) else LONGEST_INPUT


def check_length(tokenizer: Any, text: str, longest: int) -> None:
    """Raises ValueError for a text of more than `longest` tokens."""
    # No tokenizer makes more tokens than bytes; each adds a few, for the end and for languages.
    if len(text.encode(errors="replace")) + 8 > longest:
        length = len(tokenizer(text, verbose=False)["input_ids"])
        if length > longest:
            raise ValueError(
                f"it has {length} tokens, but the model takes {longest}: split it, or shorten it"
            )


def use_precision(model: Any, precision: str) -> None:
    if hasattr(model, "prepare_for_decoding"):
        model.prepare_for_decoding(None if precision == "fp32" else precision)
    elif precision != "fp32":
        raise Stop(
            f"error: --precision {precision} is for models of this package, and this is a "
            f"{type(model).__name__}: convert a Marian model with `vanilla-transformer import`",
            USAGE,
        )
