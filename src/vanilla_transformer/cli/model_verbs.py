"""The verbs that make, convert and describe models and pictures."""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from .text_verbs import Device, Entry, Model
from .verb import BAD_LINES, USAGE, LightVerb, Stop, report, settings

RECIPE: dict[str, Any] = {  # its options are passed on
    "cls": LightVerb,
    "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True},
}
Recipe = Annotated[
    str | None,
    typer.Argument(help="A YAML of your own, or one of `train --list`, such as translation/quickstart."),
]


def train(
    context: typer.Context,
    recipe: Recipe = None,
    list_: Annotated[bool, typer.Option("--list", help="Show the recipes that the package ships.")] = False,
) -> None:
    """Train a model with a recipe, score it, and save it.

    \b
    vanilla-transformer train --list
    vanilla-transformer train translation/quickstart --output_dir outputs/mine --seed 7
    vanilla-transformer train my.yaml --train_file train.tsv --output_dir outputs/mine
    vanilla-transformer train seq2seq -- --help

    All options after the recipe override keys of the YAML; `train RECIPE -- --help` shows them. Ctrl-C saves
    a checkpoint; --resume_from_checkpoint true continues.
    """
    from . import recipes

    if list_:
        typer.echo(recipes.listed())
    elif recipe is None:
        raise Stop("error: name a recipe: `vanilla-transformer train --list` shows them", USAGE)
    else:
        recipes.run(recipe, context.args)


def evaluate(context: typer.Context, recipe: Annotated[str, typer.Argument(help="As for `train`.")]) -> None:
    """Score a trained model on the data of a recipe.

    \b
    vanilla-transformer evaluate translation/quickstart --output_dir outputs/mine
    vanilla-transformer evaluate my.yaml --output_dir outputs/mine --test_file other.tsv
    """
    from . import recipes

    recipes.run(recipe, [*context.args, "--do_train", "false"])


def average(
    folders: Annotated[list[Path], typer.Argument(help="Checkpoints of one run, the last one last.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder for the mean.")],
) -> None:
    """Average the weights of checkpoints.

    Section 6.1 of the paper averages the last 5, or 20 of the big model.

    \b
    vanilla-transformer average outputs/mine/checkpoint-{800,900,1000} -o outputs/averaged
    """
    from ..training import average_checkpoints

    average_checkpoints(folders, output)
    typer.echo(f"The mean of {len(folders)} checkpoints is in {output}.")


def card(
    folder: Annotated[Path, typer.Argument(help="A folder of a saved model.")],
    task: Annotated[str, typer.Option(help="A task of `pipeline`, such as translation.")],
    data: Annotated[str, typer.Option(help="The training data, with size and licence.")],
    languages: Annotated[str, typer.Option(help="Codes with commas, the source's first: en,es.")] = "",
    license: Annotated[str | None, typer.Option(help="Of the weights, such as cc-by-4.0.")] = None,
    model: Annotated[str | None, typer.Option(help="The model's name on the Hub.")] = None,
    set: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A training setting to show.")
    ] = None,
) -> None:
    """Write the model card of a saved model.

    It is README.md. Recipes write it themselves.

    \b
    vanilla-transformer card outputs/mine --task translation --data "10,000 pairs of ours" --languages en,es

    The scores of the run, results.json in the folder, belong to the card.
    """
    from .cards import write

    path = write(
        folder,
        task=task,
        data=data,
        languages=[code.strip() for code in languages.split(",") if code.strip()],
        license=license,
        model=model,
        settings=settings(set or []),
    )
    typer.echo(f"The card is {path}.")


def info(
    model: Annotated[
        str, typer.Argument(help="A folder, a name on the Hub, or a preset, such as base or big.")
    ],
    kind: Annotated[Literal["text", "vision", "detection"], typer.Option(help="Of the preset.")] = "text",
    length: Annotated[
        int, typer.Option(min=1, help="Tokens of a sentence, for the operations of attention.")
    ] = 32,
    json_: Annotated[bool, typer.Option("--json", help="Write one JSON object, sizes in bytes.")] = False,
) -> None:
    """Show the size and the cost of a model.

    Parameters by part, memory, and operations per token, without loading weights.

    \b
    vanilla-transformer info base
    vanilla-transformer info outputs/mine --json
    """
    import json

    from .information import as_text, information

    found = information(model, kind, length)
    typer.echo(json.dumps(found) if json_ else as_text(found, length))


def import_(
    source: Annotated[str, typer.Argument(help="A folder, a file of weights, or a name on the Hub.")],
    output: Annotated[
        str | None, typer.Argument(help="A folder; without it the model is only checked.")
    ] = None,
    format: Annotated[
        str, typer.Option(help="auto reads the files. Others: marian, fairseq, joeynmt, ...")
    ] = "auto",
    check: Annotated[bool, typer.Option("--check", help="Print the report of the checks.")] = False,
    source_subwords: Annotated[
        Path | None,
        typer.Option(help="A SentencePiece model or codes of subword-nmt; by default the checkpoint's."),
    ] = None,
    target_subwords: Annotated[
        Path | None, typer.Option(help="As --source-subwords, which serves both sides if it stands alone.")
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(help="Some hundred lines of source, tab, target, to choose how words are aligned."),
    ] = None,
    set: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="What the files do not say, as num_attention_heads=8."
        ),
    ] = None,
) -> None:
    """Convert a model of another project.

    Marian (OPUS-MT), fairseq, JoeyNMT, OpenNMT, eole, torch.nn and ViT are known.

    \b
    vanilla-transformer import Helsinki-NLP/opus-mt-en-de opus-en-de
    vanilla-transformer import checkpoint_best.pt mine --check

    Before saving it compares the outputs with the original's where that can run. A conversion that would
    change a result is refused.
    """
    from ..interop.__main__ import main

    words = [source, *([output] if output else []), "--format", format, *["--check"] * check]
    files = {"source-subwords": source_subwords, "target-subwords": target_subwords, "pairs": pairs}
    for name, file in files.items():
        words += [f"--{name}", str(file)] if file else []
    main([*words, *(word for pair in set or [] for word in ("--set", pair))])


def export(
    model: Model,
    output: Annotated[Path, typer.Argument(help="A new folder.")],
    to: Annotated[Literal["ctranslate2"], typer.Option(help="The format.")] = "ctranslate2",
    precision: Annotated[
        Literal["float32", "bfloat16", "int8"], typer.Option(help="Of the weights in the new folder.")
    ] = "float32",
    sentences: Annotated[
        Path | None, typer.Option(help="A file of sentences for the check; by default random words.")
    ] = None,
) -> None:
    """Convert a model to CTranslate2.

    It proves that nothing changed.

    \b
    vanilla-transformer export outputs/mine ct2 --precision int8 --sentences dev.en

    Both translate 100 sentences in float32, greedy and with 4 beams. A difference that
    rounding does not explain stops the export.
    """
    from ..interop.exporting import SENTENCES, export_ctranslate2
    from ..text_files import read_lines

    lines = None
    if sentences is not None:
        lines = [line for line in read_lines(sentences) if line.strip()][:SENTENCES]
    exported = export_ctranslate2(model, output, precision, lines)
    typer.echo(f"{exported}\nsaved in {output}")


def train_tokenizer(
    files: Annotated[
        list[Path], typer.Argument(help="Files of text, one sentence on each line; - for standard input.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder for the tokenizer.")],
    vocab_size: Annotated[
        int, typer.Option(min=1, help="3 special tokens, tags, 256 bytes and merges.")
    ] = 37000,
    language_tag: Annotated[
        list[str] | None, typer.Option(help="A target language, such as es; repeat it for each language.")
    ] = None,
    lowercase: Annotated[bool, typer.Option("--lowercase", help="Lower-case all text.")] = False,
    min_frequency: Annotated[
        int, typer.Option(min=1, help="Merge only pairs that occur at least this often.")
    ] = 2,
) -> None:
    """Train a BPE tokenizer on text.

    It is byte-level, and one vocabulary for source and target.

    \b
    vanilla-transformer train-tokenizer train.en train.es -o tokenizer --vocab-size 8000
    """
    from ..tokenization_vanilla_transformer import VanillaTransformerTokenizer
    from .lines import good_lines

    bad: list[str] = []
    tokenizer = VanillaTransformerTokenizer.train(
        [good_lines(path, bad) for path in files],
        vocab_size=vocab_size,
        language_tags=language_tag or (),
        lowercase=lowercase,
        min_frequency=min_frequency,
        show_progress=sys.stderr.isatty(),
    )
    tokenizer.save_pretrained(output)
    typer.echo(f"A tokenizer with {len(tokenizer)} tokens is in {output}.")
    if bad:
        raise Stop(f"{len(bad)} lines were bad and were skipped: see above", BAD_LINES)


def detect(
    model: Model,
    pictures: Annotated[list[Path], typer.Argument(help="Pictures, or folders of pictures.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A folder for the pictures with boxes drawn.")
    ] = None,
    threshold: Annotated[float, typer.Option(min=0, max=1, help="The lowest score of an object.")] = 0.5,
    device: Device = None,
) -> None:
    """Find objects in pictures.

    Each picture gives a JSON object and, with --output, the picture with boxes drawn.

    \b
    vanilla-transformer detect outputs/digits photos/ -o found > found.jsonl
    """
    from .pictures import detect as run

    for line in run(model, pictures, output, threshold, device):
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()


def plot(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="A .png, .svg or .pdf; .html with --html.")],
    what: Annotated[
        Literal["curves", "attention", "alignment", "architecture", "positions", "similarity", "embeddings"]
        | None,
        typer.Option(help="What to draw; by default the attention of --source or, without it, the curves."),
    ] = None,
    source: Annotated[str | None, typer.Option(help="Draw the attention of this sentence.")] = None,
    target: Annotated[str | None, typer.Option(help="Its translation; by default the model's own.")] = None,
    attention: Annotated[
        Literal["cross", "encoder", "decoder"],
        typer.Option(help="Cross-attention, or self-attention of one stack."),
    ] = "cross",
    layer: Annotated[int, typer.Option(help="The layer of the attention; -1 is the last.")] = -1,
    head: Annotated[
        str | None, typer.Option(help="The head, or `all` for a panel of each; by default the mean of all.")
    ] = None,
    html: Annotated[
        bool, typer.Option("--html", help="Write a page in which you choose layer and head of the attention.")
    ] = False,
) -> None:
    """Draw a model, its attention, or its loss curves.

    \b
    vanilla-transformer plot outputs/mine -o curves.png
    vanilla-transformer plot outputs/mine --source "A dog sleeps." -o attention.png
    vanilla-transformer plot outputs/mine --source "A dog sleeps." --html -o attention.html
    vanilla-transformer plot base --what architecture -o base.svg
    """
    from .pictures import plot as run

    if head is not None and head != "all" and not head.removeprefix("-").isdecimal():
        raise Stop(f"error: --head {head}: give a number, or all", USAGE)
    if html and (what not in (None, "attention") or source is None):
        raise Stop("error: --html shows attention: give --source, and no other --what", USAGE)
    if html and head is not None:
        raise Stop("error: --html shows all heads: remove --head", USAGE)
    if html != (output.suffix.lower() in (".html", ".htm")):
        raise Stop(f"error: --output {output}: --html writes a .html file, and only --html does", USAGE)
    if not output.absolute().parent.is_dir():
        raise Stop(f"error: there is no folder {output.absolute().parent}")
    chosen = "page" if html else what or ("attention" if source else "curves")
    number: Any = head if head in (None, "all") else int(head or 0)
    run(chosen, model, output, source, target, attention, layer, number)
    report(f"saved {output}")


VERBS = {
    "train": Entry(train, RECIPE),
    "evaluate": Entry(evaluate, RECIPE),
    "average": Entry(average),
    "card": Entry(card),
    "info": Entry(info),
    "plot": Entry(plot),
    "train-tokenizer": Entry(train_tokenizer),
    "import": Entry(import_),
    "export": Entry(export),
    "detect": Entry(detect),
}
