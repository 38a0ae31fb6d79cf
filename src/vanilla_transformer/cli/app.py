"""The program and its list of verbs."""

import typer

from . import model_verbs, text_verbs

EPILOG = """\b
Exit codes: 0 fine, 1 error, 2 wrong usage, 3 some lines were bad (each is reported with its number),
130 stopped with Ctrl-C, 141 the reader of the output has gone.
"""

app = typer.Typer(
    name="vanilla-transformer",
    help="""Train, use and convert encoder-decoders, from the shell.

    \b
    vanilla-transformer train --list
    vanilla-transformer train translation/quickstart.yaml --output_dir outputs/mine
    echo "A dog sleeps." | vanilla-transformer translate outputs/mine

    `vanilla-transformer VERB --help` explains a verb. Lines come from standard input and go to standard
    output, unless you name files. `vanilla-transformer --install-completion` lets your shell complete verbs
    and options.
    """,
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,  # plain text: it starts faster, and `| less` shows it as it is
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb, options in {**model_verbs.VERBS, **text_verbs.VERBS}.items():
    app.command(verb, **options.settings)(options.function)


def main() -> None:
    app(prog_name="vanilla-transformer")
