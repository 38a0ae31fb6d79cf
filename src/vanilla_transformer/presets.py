"""Sizes of models by name, without what equals the defaults of their configurations."""

# Sizes of "Attention Is All You Need" and the rows of its Table 3, without what equals the base model.
# The paper's parameter counts imply about 41,000 shared words for the base-sized rows and 36,200 for "big".
# The rows D with label smoothing 0.0 and 0.2 have no preset: they train "table3-base" with another
# label_smoothing_factor. The 256 positions of row E are ours: the paper gives no number.
PRESETS: dict[str, dict] = {
    "tiny": {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_attention_heads": 4,
        "encoder_layers": 4,
        "decoder_layers": 4,
    },
    "small": {"intermediate_size": 1024, "num_attention_heads": 4},
    "base": {},
    "big": {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "dropout": 0.3},
    "table3-base": {"vocab_size": 41000},
    "table3-A-1-head": {"vocab_size": 41000, "num_attention_heads": 1},
    "table3-A-4-heads": {"vocab_size": 41000, "num_attention_heads": 4},
    "table3-A-16-heads": {"vocab_size": 41000, "num_attention_heads": 16},
    "table3-A-32-heads": {"vocab_size": 41000, "num_attention_heads": 32},
    "table3-B-head-dim-16": {"vocab_size": 41000, "head_dim": 16},
    "table3-B-head-dim-32": {"vocab_size": 41000, "head_dim": 32},
    "table3-C-2-layers": {"vocab_size": 41000, "encoder_layers": 2, "decoder_layers": 2},
    "table3-C-4-layers": {"vocab_size": 41000, "encoder_layers": 4, "decoder_layers": 4},
    "table3-C-8-layers": {"vocab_size": 41000, "encoder_layers": 8, "decoder_layers": 8},
    "table3-C-hidden-256": {"vocab_size": 41000, "hidden_size": 256},
    "table3-C-hidden-1024": {"vocab_size": 41000, "hidden_size": 1024},
    "table3-C-intermediate-1024": {"vocab_size": 41000, "intermediate_size": 1024},
    "table3-C-intermediate-4096": {"vocab_size": 41000, "intermediate_size": 4096},
    "table3-D-dropout-0.0": {"vocab_size": 41000, "dropout": 0.0},
    "table3-D-dropout-0.2": {"vocab_size": 41000, "dropout": 0.2},
    "table3-E-learned-positions": {
        "vocab_size": 41000,
        "position_embedding_type": "learned",
        "max_position_embeddings": 256,
    },
    "table3-big": {
        "vocab_size": 36200,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "dropout": 0.3,
    },
}

# Sizes of Dosovitskiy et al. 2021, table 1; "small" is from the DeiT paper, and "vit-lite-7-4", for images of
# 32 pixels, from Hassani et al. 2021.
VISION_PRESETS: dict[str, dict] = {
    "tiny": {
        "image_size": 32,
        "patch_size": 4,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "encoder_layers": 3,
    },
    "vit-lite-7-4": {
        "image_size": 32,
        "patch_size": 4,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_attention_heads": 4,
        "encoder_layers": 7,
    },
    "small": {"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 6},
    "base": {},
    "large": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "encoder_layers": 24,
    },
}

DETECTION_PRESETS: dict[str, dict] = {
    "tiny": {
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_attention_heads": 4,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "num_queries": 30,
    },
    "small": {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_attention_heads": 4,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "num_queries": 60,
    },
    "base": {},
}

__all__ = ["DETECTION_PRESETS", "PRESETS", "VISION_PRESETS"]
