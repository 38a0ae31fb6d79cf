"""Draw where a trained translator looks while it writes each word.

    python examples/plot_attention.py outputs/quickstart "And Jehovah said to Moses," attention.png

The picture shows the cross-attention of one decoder layer. Rows are target pieces, columns are source pieces.
--kind encoder and --kind decoder show self-attention. docs/pictures.md explains all pictures.
"""

import argparse

from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

import vanilla_transformer  # noqa: F401 - registers the model
from vanilla_transformer.visualization import plot_attention


def head_or_all(text):
    return text if text == "all" else int(text)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", help="folder of a trained encoder-decoder, or its name on the Hub")
    parser.add_argument("text", help="the source text")
    parser.add_argument("picture", help="the file to write: .png, .pdf or .svg")
    parser.add_argument("--target", help="the target text; by default, the model generates it")
    parser.add_argument("--layer", type=int, default=-1, help="layer, from 0 (default: the last)")
    parser.add_argument(
        "--head",
        type=head_or_all,
        help="attention head, from 0, or all (default: the mean over all heads)",
    )
    parser.add_argument("--kind", choices=("cross", "encoder", "decoder"), default="cross")
    args = parser.parse_args()

    model = AutoModelForSeq2SeqLM.from_pretrained(args.folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.folder)
    try:
        figure = plot_attention(model, tokenizer, args.text, args.target, args.layer, args.head, args.kind)
    except ValueError as error:
        parser.error(str(error))
    figure.savefig(args.picture)
    print(f"wrote {args.picture}")


if __name__ == "__main__":
    main()
