"""python -m vanilla_transformer.interop SOURCE OUTPUT [--format FORMAT] [--check] [--set NAME=VALUE] ..."""

import argparse
import sys
from pathlib import Path

import yaml

from . import FORMATS, ConversionError, import_model
from .reading import read_lines


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """The pairs of a file with source, tab and target on each line.

    Raises:
        ConversionError: a line has no tab.
    """
    pairs = []
    for number, line in enumerate(read_lines(path), start=1):
        source, tab, target = line.rstrip("\r").partition("\t")
        if line.strip():
            if not tab:
                raise ConversionError(f"{path}, line {number}: write source, tab, target")
            pairs.append((source, target))
    return pairs


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m vanilla_transformer.interop",
        description="Convert a model of another project, with its tokenizer, to a folder of this package.",
    )
    parser.add_argument("source", help="folder, file of weights, or name on the Hub")
    parser.add_argument("output", nargs="?", help="folder to save in; without it the model is only checked")
    parser.add_argument(
        "--format", default="auto", choices=["auto", *FORMATS], help="%(default)s reads the files"
    )
    parser.add_argument("--check", action="store_true", help="print the report of the checks")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="what the files do not say, such as --set num_attention_heads=8",
    )
    for side in ("source", "target"):
        parser.add_argument(
            f"--{side}-subwords",
            metavar="FILE",
            help=f"SentencePiece model or codes of subword-nmt that cut the {side}'s texts",
        )
    parser.add_argument(
        "--pairs",
        metavar="FILE",
        help="source, tab, target on each line, to choose the attention of word alignments with",
    )
    given = parser.parse_args(words)
    settings = {}
    for setting in given.set:
        name, equals, value = setting.partition("=")
        if not equals:
            parser.error(f"--set {setting}: write it as NAME=VALUE")
        try:
            settings[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            parser.error(f"--set {setting}: {value!r} is not valid YAML")
    subwords = {name: getattr(given, name) for name in ("source_subwords", "target_subwords")}
    settings |= {name: file for name, file in subwords.items() if file}
    try:
        pairs = read_pairs(Path(given.pairs)) if given.pairs else []
        imported = import_model(given.source, given.output, given.format, pairs=pairs, **settings)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")
    if given.check or given.output is None:
        print(imported.report)
    else:
        print("".join(f"note: {note}\n" for note in imported.report.notes), end="")
    if given.output is not None:
        print(f"saved in {given.output}")


if __name__ == "__main__":
    main()
