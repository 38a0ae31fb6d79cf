"""`translate`, `summarize` and `generate`: a pipeline over windows of lines."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..pipeline_batches import intended_length, number_of_positions
from .lines import Line, Streams, as_one_line, write_record
from .verb import USAGE, Stop

LONGEST_INPUT = 4096  # tokens, for models that state no limit


@dataclass
class Request:
    """What to generate.

    Args:
        task: of `pipeline`.
        model: a folder, or a name on the Hub.
        beams, batch_size: None for the model's, and for batches of 2,048 tokens.
        n_best: outputs for each line.
        scores, alignments: write them with each output.
        terms: a file of translations that outputs must have, source and target with a tab between them.
        forbid: words that no output has.
        truncate: cut long lines instead of reporting them as bad.
        pipeline_options: more arguments of the pipeline, such as the languages.
    """

    task: str
    model: str
    beams: int | None = None
    n_best: int = 1
    scores: bool = False
    alignments: bool = False
    terms: Path | None = None
    forbid: list[str] = field(default_factory=list)
    precision: str = "fp32"
    batch_size: int | None = None
    device: str | None = None
    truncate: bool = False
    generate_options: dict[str, Any] = field(default_factory=dict)
    pipeline_options: dict[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        if self.beams is not None and self.n_best > self.beams:
            raise Stop(f"error: --n-best {self.n_best} needs --beam {self.n_best} or more", USAGE)
        if self.terms and self.beams == 1:
            raise Stop("error: --terms needs beam search: give --beam 2 or more", USAGE)


def run(request: Request, streams: Streams) -> None:
    request.check()
    streams.check()
    terms = read_terms(request.terms) if request.terms else {}
    streams.process(Generator(request, streams.format, terms).outputs)


class Generator:
    """A loaded model that turns lines to lines."""

    def __init__(self, request: Request, format: str, terms: dict[str, str]):
        self.request, self.format = request, format
        self.pipe = load_pipeline(request.task, request.model, request.device, **request.pipeline_options)
        use_precision(self.pipe.model, request.precision)
        self.longest = longest_input(self.pipe.model, self.pipe.tokenizer)
        self.key = f"{self.pipe.return_name}_text"
        self.options: dict[str, Any] = dict(request.generate_options)
        settings = self.pipe.model.generation_config
        beams = request.beams or max(getattr(settings, "num_beams", None) or 4, request.n_best)
        if request.beams or request.n_best > 1:
            self.options["num_beams"] = beams
        if request.n_best > 1:
            self.options["num_return_sequences"] = request.n_best
        if request.truncate:
            self.options["truncation"] = True
        if request.batch_size:
            self.options["batch_size"] = request.batch_size
        if request.scores:
            self.options["return_scores"] = True
        if request.alignments:
            self.options["return_alignments"] = True
        if terms:
            self.options["terms"] = terms
        if request.forbid:
            self.options["forbid"] = request.forbid

    def outputs(self, lines: list[Line]) -> Iterator[bytes]:
        for line in lines:
            if line.error is None and not self.request.truncate:
                try:
                    check_length(self.pipe.tokenizer, self.pipe.prefix + line.texts[0], self.longest)
                except ValueError as error:
                    line.error = str(error)
        good = [line for line in lines if line.error is None]
        found = self.pipe([line.texts[0] for line in good], **self.options) if good else []
        results = iter([each] if isinstance(each, dict) else each for each in found)
        return (self.written(line, next(results) if line.error is None else []) for line in lines)

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
        if self.request.alignments:
            found["alignment"] = [result["alignment"] for result in results]
        return {name: values if self.request.n_best > 1 else values[0] for name, values in found.items()}


def read_terms(path: Path) -> dict[str, str]:
    terms = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if line.strip():
            source, tab, target = line.partition("\t")
            if not (source.strip() and target.strip()):
                raise ValueError(f"{path}, line {number}: expected source, tab, target, got {line[:40]!r}")
            terms[source.strip()] = target.strip()
    return terms


def load_pipeline(task: str, model: str, device: str | None = None, **options: Any) -> Any:
    """A pipeline of transformers, without its messages about loading."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    if device is not None:
        options["device"] = device
    return transformers.pipeline(task, model=model, **options)  # type: ignore[call-overload]


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
