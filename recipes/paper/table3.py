"""The rows of Table 3: the paper's scores, and what each row changes in the grid of grid.py.

The grid has a quarter of the paper's widths and half its layers, so each ratio to base is the paper's:
d_model 128 for 512, d_ff 512 for 2048, d_k 16 for 64, N 3 for 6. Heads, dropout and label smoothing stay as
they are. The learning rate falls with the square root of d_model, as in section 5.3.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """One row of Table 3.

    Args:
        perplexity, bleu: on newstest2013, as the paper prints them.
        millions: of parameters; None where the paper prints none, because the row has as many as base.
        changes: flags of recipes/seq2seq.py that make the row from base.yaml.
    """

    perplexity: float
    bleu: float
    millions: int | None = None
    changes: dict[str, object] = field(default_factory=dict)


SEEDS = 3
ROWS = {
    "base": Row(4.92, 25.8, 65),
    "A-1-head": Row(5.29, 24.9, None, {"model.num_attention_heads": 1}),
    "A-4-heads": Row(5.00, 25.5, None, {"model.num_attention_heads": 4}),
    "A-16-heads": Row(4.91, 25.8, None, {"model.num_attention_heads": 16}),
    "A-32-heads": Row(5.01, 25.4, None, {"model.num_attention_heads": 32}),
    "B-head-dim-16": Row(5.16, 25.1, 58, {"model.head_dim": 4}),
    "B-head-dim-32": Row(5.01, 25.4, 60, {"model.head_dim": 8}),
    "C-2-layers": Row(6.11, 23.7, 36, {"model.encoder_layers": 1, "model.decoder_layers": 1}),
    "C-4-layers": Row(5.19, 25.3, 50, {"model.encoder_layers": 2, "model.decoder_layers": 2}),
    "C-8-layers": Row(4.88, 25.5, 80, {"model.encoder_layers": 4, "model.decoder_layers": 4}),
    "C-hidden-256": Row(5.75, 24.5, 28, {"model.hidden_size": 64, "learning_rate": 0.00283}),
    "C-hidden-1024": Row(4.66, 26.0, 168, {"model.hidden_size": 256, "learning_rate": 0.00141}),
    "C-intermediate-1024": Row(5.12, 25.4, 53, {"model.intermediate_size": 256}),
    "C-intermediate-4096": Row(4.75, 26.2, 90, {"model.intermediate_size": 1024}),
    "D-dropout-0.0": Row(5.77, 24.6, None, {"model.dropout": 0.0}),
    "D-dropout-0.2": Row(4.95, 25.5, None, {"model.dropout": 0.2}),
    "D-smoothing-0.0": Row(4.67, 25.3, None, {"label_smoothing_factor": 0.0}),
    "D-smoothing-0.2": Row(5.47, 25.7, None, {"label_smoothing_factor": 0.2}),
    "E-learned-positions": Row(
        4.92, 25.7, None, {"model.position_embedding_type": "learned", "model.max_position_embeddings": 256}
    ),
    "big": Row(
        *(4.33, 26.4, 213),
        {
            "model.hidden_size": 256,
            "learning_rate": 0.00141,
            "model.intermediate_size": 1024,
            "model.num_attention_heads": 16,
            "model.dropout": 0.3,
        },
    ),
}
