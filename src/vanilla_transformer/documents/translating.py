"""Texts with markup and documents through a translator."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from transformers.utils import logging

from .html import read_html
from .inline import inline_segment
from .markdown import read_markdown
from .pieces import Parts
from .plain_text import read_text
from .sentences import Sentence
from .splitting import split_segment
from .subtitles import read_subtitles

logger = logging.get_logger(__name__)

FORMATS: dict[str, Callable[[str], Parts]] = {
    "txt": read_text,
    "md": read_markdown,
    "html": read_html,
    "srt": read_subtitles,
    "vtt": read_subtitles,
}
LONGEST = 16 * 2**20  # characters of a document
Outputs = list[tuple[str, str | None]]  # with the alignment


class Document:
    """A document in a format, cut into sentences.

        document = Document(text, "md")
        document.write(translate_sentences(translate, document.sentences))

    Args:
        language: of the text, which decides where sentences end: `en`, `de`, and so on.

    Raises:
        ValueError: an unknown format, or a document that is too long.
    """

    def __init__(self, text: str, format: str, language: str = "en"):
        if format not in FORMATS:
            raise ValueError(f"there is no format {format!r}: choose one of {', '.join(FORMATS)}")
        if len(text) > LONGEST:
            raise ValueError(f"the document has {len(text):,} characters; split it into parts of {LONGEST:,}")
        text.encode()  # raises ValueError for half of a surrogate pair
        self.parts: list[str | Sentence] = []
        for part in FORMATS[format](text):
            self.parts += [part] if isinstance(part, str) else split_segment(part, language)

    @property
    def sentences(self) -> list[Sentence]:
        """Those that have words."""
        return [part for part in self.parts if isinstance(part, Sentence) and part.has_words]

    def write(self, translations: Iterable[str]) -> str:
        """The document with a translation for each of `sentences`."""
        found = iter(translations)
        return "".join(
            part if isinstance(part, str) else next(found) if part.has_words else part.raw
            for part in self.parts
        )


def translate_document(
    translate: Any, document: str, format: str, *, language: str = "en", **options: Any
) -> str:
    """Translates a document, and keeps everything that is not text.

        translate = pipeline("translation", model="outputs/mine")
        Path("LIESMICH.md").write_text(translate_document(translate, Path("README.md").read_text(), "md"))

    Args:
        translate: a pipeline of this package, or a function from a list of texts to a list of translations. A
            function returns no alignments: markup goes where the same share of the text is.
        document: its text. Read files with `newline=""` to keep the line ends of Windows.
        format: "txt", "md", "html", "srt" or "vtt".
        language: of the document, which decides where sentences end.
        options: of the pipeline's call, such as `num_beams`, `terms` or `forbid`.

    Raises:
        ValueError: an unknown format, a document of more than 16 million characters, or a sentence that is
            longer than the model takes.
    """
    parsed = Document(document, format, language)
    return parsed.write(translate_sentences(translate, parsed.sentences, **options))


def translate_markup(translate: Any, texts: str | Sequence[str], **options: Any) -> Any:
    """Translates texts with inline markup, such as `Click <b>Save</b>, {name}.`

    Every tag and every placeholder of a text is in its translation as often as in the text. The words of an
    element are found by alignments. Each text is translated as a whole, and one without markup as it is
    without this function.

    Args:
        translate, options: as for `translate_document`. `terms` may be a list with a dict for each text.

    Returns:
        the translation, or a list for a list of texts.
    """
    if isinstance(texts, str):
        return translate_markup(translate, [texts], **options)[0]
    segments = [inline_segment(text) for text in texts]
    sentences = [Sentence(segment.pieces, segment.escape) for segment in segments]
    plain = [index for index, sentence in enumerate(sentences) if sentence.is_plain]
    others = [index for index, sentence in enumerate(sentences) if not sentence.is_plain]
    outputs = call(translate, [texts[index] for index in plain], False, options_of(plain, options))
    found = dict(zip(plain, (text for text, _ in outputs)))
    marked = [sentences[index] for index in others]
    found |= zip(others, translate_sentences(translate, marked, **options_of(others, options)))
    return [found[index] for index in range(len(texts))]


def records_with_markup(pipe: Any, texts: str | Sequence[str], **options: Any) -> list[dict[str, str]]:
    """What a pipeline returns for `pipe(texts, markup=True)`."""
    chosen = [texts] if isinstance(texts, str) else list(texts)
    return [{f"{pipe.return_name}_text": text} for text in translate_markup(pipe, chosen, **options)]


def translate_sentences(translate: Any, sentences: Sequence[Sentence], **options: Any) -> list[str]:
    """The translations of sentences, with their markup.

    Placeholders go to the model as they are. Where one does not come back as often as it was there, the
    sentence is translated again without them, and alignments place them.
    """
    found: list[str | None] = [None if sentence.has_words else sentence.raw for sentence in sentences]

    def run(chosen: dict[int, Sentence], align: bool) -> None:
        texts = [sentence.text for sentence in chosen.values()]
        outputs = call(translate, texts, align, options_of(list(chosen), options))
        for (index, sentence), output in zip(chosen.items(), outputs):
            found[index] = sentence.write(*output)

    for align in (False, True):
        run(
            {i: each for i, each in enumerate(sentences) if found[i] is None and each.is_marked == align},
            align,
        )
    hidden = {i: each.without_opaque() for i, each in enumerate(sentences) if found[i] is None}
    run({i: each for i, each in hidden.items() if each.has_words}, align=True)
    return [sentence.raw if text is None else text for text, sentence in zip(found, sentences)]


def options_of(chosen: list[int], options: dict[str, Any]) -> dict[str, Any]:
    """The options for some of the texts: `terms` may have a dict for each."""
    terms = options.get("terms")
    if terms is None or isinstance(terms, Mapping):
        return options
    return {**options, "terms": [terms[index] for index in chosen]}


def call(translate: Any, texts: list[str], align: bool, options: dict[str, Any]) -> Outputs:
    """The outputs of a translator, with alignments if it has them."""
    for option in ("return_scores", "return_alignments", "return_tensors", "mbr"):
        if options.get(option):
            raise ValueError(f"markup and documents return texts alone: remove {option}")
    if not texts:
        return []
    name = getattr(translate, "return_name", None)
    if name is None:
        outputs = list(translate(texts, **options))
        if len(outputs) != len(texts):
            raise ValueError(f"the translator returned {len(outputs)} translations for {len(texts)} texts")
        return [(text, None) for text in outputs]
    if align:
        options = {**options, "return_alignments": True}
        if getattr(translate.model.generation_config, "alignment_layer", None) is None:
            logger.warning_once(
                "Nobody chose which attention of this model aligns words, so markup may be at wrong words: "
                "run choose_attention once, and save the generation config (docs/documents.md)"
            )
    records = translate(texts, **options)
    if not all(isinstance(record, dict) for record in records):
        raise ValueError("markup needs one output for each text: remove num_return_sequences")
    return [(record[f"{name}_text"], record.get("alignment")) for record in records]
