"""The verbs that read lines of text."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import typer

from .lines import Streams
from .verb import Verb, settings

Format = Literal["text", "jsonl"]
DocumentFormat = Literal["text", "jsonl", "txt", "md", "html", "srt", "vtt"]
Model = Annotated[str, typer.Argument(help="A folder that a recipe or `import` wrote, or a name on the Hub.")]
Input = Annotated[
    Path | None, typer.Argument(help="A file of lines; standard input if you name none, or `-`.")
]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="A file; without it, standard output.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Continue an interrupted --output after its last complete line.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the --output file if it exists.")]
FormatOption = Annotated[
    Format, typer.Option("--format", help="Lines of text, or a JSON object on each line, in and out.")
]
Window = Annotated[
    int, typer.Option(min=1, help="Lines that are read, sorted by length into batches, and written together.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]
BatchSize = Annotated[
    int | None, typer.Option(min=1, help="Lines in a batch, instead of as many as have 2,048 tokens.")
]
Device = Annotated[str | None, typer.Option(help="Such as cpu or cuda:1. By default a GPU, if there is one.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Any argument of generate, such as length_penalty=1.0."),
]


class Entry(NamedTuple):
    """A verb: its function, and arguments of `typer.Typer.command`."""

    function: Callable[..., None]
    settings: dict[str, Any] = {"cls": Verb}


def from_file(path: Path | None) -> Path | None:
    return None if path is not None and str(path) == "-" else path


def generating_verb(task: str, help: str) -> Entry:
    """The verb of a text-to-text task of `pipeline`."""
    hidden = task != "translation"

    def verb(
        model: Model,
        input: Input = None,
        output: Output = None,
        format: Annotated[
            DocumentFormat,
            typer.Option(
                "--format",
                help="text and jsonl: a line or a JSON object for each line. The others: a whole document, "
                "whose sentences are translated while the rest stays.",
            ),
        ] = "text",
        field: Annotated[str, typer.Option(help="The field of a JSON line that holds the text.")] = "text",
        markup: Annotated[
            bool,
            typer.Option("--markup", help="Keep tags such as <b> and placeholders such as {name} of lines."),
        ] = False,
        language: Annotated[
            str | None,
            typer.Option(help="Of a document, such as de: decides where sentences end. English by default."),
        ] = None,
        source_lang: Annotated[
            str | None, typer.Option(hidden=hidden, help="The source language, for multilingual models.")
        ] = None,
        target_lang: Annotated[
            str | None, typer.Option(hidden=hidden, help="The target language, for multilingual models.")
        ] = None,
        beam: Annotated[
            int | None, typer.Option(min=1, help="Beams; 1 is greedy. The model's own by default.")
        ] = None,
        n_best: Annotated[
            int, typer.Option(min=1, help="Outputs for each line: columns with tabs, or lists in JSON.")
        ] = 1,
        beam_groups: Annotated[
            int, typer.Option(min=1, help="Groups of beams that avoid each other's words: a diverse n-best.")
        ] = 1,
        diversity_penalty: Annotated[
            float, typer.Option(min=0, help="How much they avoid them, with --beam-groups.")
        ] = 0.5,
        sample: Annotated[
            bool, typer.Option("--sample", help="Draw outputs at random instead of searching.")
        ] = False,
        mbr: Annotated[
            int | None,
            typer.Option(min=2, help="Of so many outputs, write the one with minimum Bayes risk by chrF."),
        ] = None,
        ensemble: Annotated[
            list[str] | None,
            typer.Option(help="Another folder with the same vocabulary; repeat it for more models."),
        ] = None,
        scores: Annotated[
            bool, typer.Option("--scores", help="Write the score, with length penalty, before each output.")
        ] = False,
        alignments: Annotated[
            bool,
            typer.Option("--alignments", help="Write which words belong together, as in 0-0 1-2."),
        ] = False,
        terms: Annotated[
            Path | None,
            typer.Option(help="A file of terms to force: source, tab, target."),
        ] = None,
        forbid: Annotated[
            list[str] | None, typer.Option(help="A word that no output has; repeat it for more words.")
        ] = None,
        precision: Annotated[
            Literal["auto", "fp32", "bf16", "int8"],
            typer.Option(help="Of products with weights. auto measures the fastest; a few words may change."),
        ] = "fp32",
        max_new_tokens: Annotated[
            int | None, typer.Option(min=1, help="The most tokens of an output. The model's own by default.")
        ] = None,
        truncate: Annotated[
            bool, typer.Option("--truncate", help="Cut lines that are too long for the model.")
        ] = False,
        resume: Resume = False,
        overwrite: Overwrite = False,
        window: Window = 2000,
        batch_size: BatchSize = None,
        device: Device = None,
        set: Set = None,
        quiet: Quiet = False,
    ) -> None:
        from .generating import Request, run

        options = settings(set or [])
        if max_new_tokens is not None:
            options["max_new_tokens"] = max_new_tokens
        languages = {"src_lang": source_lang, "tgt_lang": target_lang}
        request = Request(
            task,
            model,
            beams=beam,
            n_best=n_best,
            beam_groups=beam_groups,
            diversity_penalty=diversity_penalty,
            sample=sample,
            mbr=mbr,
            ensemble=ensemble or [],
            scores=scores,
            alignments=alignments,
            terms=terms,
            forbid=forbid or [],
            precision=precision,
            batch_size=batch_size,
            device=device,
            truncate=truncate,
            markup=markup,
            generate_options=options,
            pipeline_options={name: value for name, value in languages.items() if value is not None},
        )
        streams = Streams(from_file(input), output, resume, overwrite, format, (field,), window, quiet)
        run(request, streams, language)

    return Entry(verb, {"cls": Verb, "help": help})


LINES = """
    One line in, one line out, in the order of the input. Windows of 2,000 lines are sorted by length, so
    output comes in blocks; --window 1 answers each line at once. A bad line (invalid UTF-8, a NUL byte, more
    than 1 MB, too long for the model) gives an empty line, or {"error": ...} in JSON, a message with its
    number, and exit code 3 at the end. Ctrl-C says how to resume.
"""


def score(
    model: Model,
    input: Input = None,
    output: Output = None,
    format: FormatOption = "text",
    source_field: Annotated[str, typer.Option(help="The field of a JSON line with the source.")] = "source",
    target_field: Annotated[str, typer.Option(help="The field of a JSON line with the target.")] = "target",
    source_lang: Annotated[
        str | None, typer.Option(help="The source language, for multilingual models.")
    ] = None,
    target_lang: Annotated[
        str | None, typer.Option(help="The target language, for multilingual models.")
    ] = None,
    tokens: Annotated[
        bool,
        typer.Option("--tokens", help="Write the log-probability of each token too, the end token last."),
    ] = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
    window: Window = 2000,
    batch_size: BatchSize = None,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Score given pairs of texts.

    How probable is the target, if the model reads the source?

    \b
    paste news.en news.es | vanilla-transformer score outputs/mine > scores.tsv
    vanilla-transformer score outputs/mine pairs.jsonl --format jsonl --tokens

    A line of text is source, tab, target. The columns of the output are the log-probability of the target
    (natural logarithm, with its end token), the mean for each token, and the number of tokens.
    """
    from .scoring import score as run

    streams = Streams(
        from_file(input), output, resume, overwrite, format, (source_field, target_field), window, quiet
    )
    languages = {"src_lang": source_lang, "tgt_lang": target_lang}
    run(model, streams, tokens, device, batch_size, **{k: v for k, v in languages.items() if v is not None})


def classify(
    model: Model,
    input: Input = None,
    output: Output = None,
    format: FormatOption = "text",
    field: Annotated[str, typer.Option(help="The field of a JSON line that holds the text.")] = "text",
    top: Annotated[int, typer.Option(min=1, help="Labels for each line, the most probable first.")] = 1,
    truncate: Annotated[
        bool, typer.Option("--truncate", help="Cut lines that are too long for the model.")
    ] = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
    window: Window = 2000,
    batch_size: BatchSize = None,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Classify texts, one on each line.

    The output is label, tab, probability.

    \b
    echo "What a wonderful film." | vanilla-transformer classify outputs/sentiment
    vanilla-transformer classify outputs/news titles.txt --top 3 -o labels.tsv
    """
    from .scoring import classify as run

    streams = Streams(from_file(input), output, resume, overwrite, format, (field,), window, quiet)
    run(model, streams, top, device, batch_size, truncate)


DOCUMENTS = """
    --format txt, md, html, srt and vtt take a document: it is split into sentences, and everything that is
    not text stays as it is. A sentence that is too long for the model stays too, with a message.
"""

VERBS = {
    "translate": generating_verb(
        "translation",
        """Translate lines of text.

    \b
    echo "A dog sleeps." | vanilla-transformer translate outputs/mine
    vanilla-transformer translate outputs/mine news.en -o news.es --precision auto
    vanilla-transformer translate outputs/mine news.en -o news.es --resume
    vanilla-transformer translate outputs/mine docs.jsonl --format jsonl --field body --n-best 3 --scores
    vanilla-transformer translate outputs/mine README.md --format md -o LEEME.md
    vanilla-transformer translate outputs/mine news.en --n-best 6 --beam-groups 3
    vanilla-transformer translate outputs/mine news.en --mbr 32 --sample
    vanilla-transformer translate outputs/mine news.en --ensemble outputs/second
"""
        + LINES
        + DOCUMENTS,
    ),
    "summarize": generating_verb(
        "summarization",
        """Summarize texts, one on each line.

    \b
    vanilla-transformer summarize outputs/mine news.jsonl --format jsonl --field article -o summaries.jsonl
"""
        + LINES,
    ),
    "generate": generating_verb(
        "text2text-generation",
        """Generate a text from each line, with any encoder-decoder.

    \b
    echo "translate English to German: A dog." | vanilla-transformer generate google-t5/t5-small
"""
        + LINES,
    ),
    "score": Entry(score),
    "classify": Entry(classify),
}
