"""Draw where a trained translator looks while it writes each word.

    python examples/plot_attention.py outputs/quickstart "And Jehovah said to Moses," attention.png

The picture shows the cross-attention of one decoder layer. Rows are target pieces, columns are source pieces.
"""

import argparse

from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

import vanilla_transformer  # noqa: F401 - registers the model
from vanilla_transformer.visualization.attention import plot_attention


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", help="folder of a trained encoder-decoder, or its name on the Hub")
    parser.add_argument("text", help="the source text")
    parser.add_argument("picture", help="the file to write: .png, .pdf or .svg")
    parser.add_argument("--target", help="the target text; by default, the model generates it")
    parser.add_argument("--layer", type=int, default=-1, help="decoder layer, from 0 (default: the last)")
    parser.add_argument("--head", type=int, help="attention head, from 0 (default: the mean over all heads)")
    args = parser.parse_args()

    model = AutoModelForSeq2SeqLM.from_pretrained(args.folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.folder)
    try:
        figure = plot_attention(model, tokenizer, args.text, args.target, args.layer, args.head)
    except ValueError as error:
        parser.error(str(error))
    figure.savefig(args.picture)
    print(f"wrote {args.picture}")


if __name__ == "__main__":
    main()
