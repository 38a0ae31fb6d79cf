"""`translate` and `generate` with a document: read as a whole, and written as a whole."""

from typing import BinaryIO

from ..documents import Document, translate_sentences
from ..documents.sentences import Sentence
from ..terms import UnmetTerms
from .generating import Generator, Request, blaming, check_length, read_terms
from .lines import Streams
from .verb import BAD_LINES, USAGE, Stop, report

LARGEST = 64 << 20  # bytes
MARK = b"\xef\xbb\xbf"  # of the byte order


def run_document(request: Request, streams: Streams, language: str | None) -> None:
    check(request, streams)
    streams.check()
    terms = read_terms(request.terms) if request.terms else {}
    with streams.open_input() as file:
        data = read(file)
    document = Document(data.removeprefix(MARK).decode(), streams.format, language or "en")
    generator = Generator(request, streams.format, terms)
    options = dict(generator.options)
    if terms:
        options["terms"] = terms
    if request.forbid:
        options["forbid"] = request.forbid
    translations: list[str] = []
    bad = 0
    place = f"{streams.input}, line" if streams.input else "line"
    with streams.progress(len(document.sentences), "sentences") as bar:
        for first in range(0, len(document.sentences), streams.window):
            window = document.sentences[first : first + streams.window]
            errors = [error_of(sentence, generator) for sentence in window]
            good = [sentence for sentence, error in zip(window, errors) if error is None]
            found = iter(translated(good, generator, options))
            for sentence, error in zip(window, errors):
                output = error or next(found)
                if isinstance(output, ValueError):
                    bad += 1
                    report(f"{place} {sentence.line}: {output}; it stays as it is: {sentence.text[:40]!r}")
                    output = sentence.raw
                translations.append(output)
            bar.update(len(window))
    with streams.open_output() as (target, _):
        target.write(MARK * data.startswith(MARK) + document.write(translations).encode(errors="replace"))
        target.flush()
    if bad:
        raise Stop(f"{bad} of {len(translations)} sentences were bad: see above", BAD_LINES)


def check(request: Request, streams: Streams) -> None:
    """Raises an error for options that have no meaning for a document."""
    format = streams.format
    if request.task == "summarization":
        raise Stop(f"error: --format {format} works by sentences: summarize takes text or jsonl", USAGE)
    for name, given in (
        ("--n-best", request.n_best > 1),
        ("--scores", request.scores),
        ("--alignments", request.alignments),
        ("--field", streams.fields != ("text",)),
        ("--resume", streams.resume),
    ):
        if given:
            raise Stop(f"error: {name} is for lines: remove it, or remove --format {format}", USAGE)


def read(file: BinaryIO) -> bytes:
    data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise ValueError(f"the document has more than {LARGEST:,} bytes: split it")
    try:
        data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line}: invalid UTF-8 at byte {error.start + 1} of the document") from None
    return data


def translated(sentences: list[Sentence], generator: Generator, options: dict) -> list[str | ValueError]:
    """The translations; the error of a sentence whose terms cannot be met."""
    try:
        with blaming(generator.request.generate_options):
            return [*translate_sentences(generator.pipe, sentences, **options)]
    except UnmetTerms as error:
        if len(sentences) == 1:
            return [error]
        half = len(sentences) // 2
        halves = sentences[:half], sentences[half:]
        return [output for each in halves for output in translated(each, generator, options)]


def error_of(sentence: Sentence, generator: Generator) -> ValueError | None:
    """Why the model cannot take a sentence."""
    if "\0" in sentence.text:
        return ValueError("it contains a NUL byte")
    try:
        if not generator.request.truncate:
            check_length(generator.pipe.tokenizer, generator.pipe.prefix + sentence.text, generator.longest)
    except ValueError as error:
        return error
    return None
