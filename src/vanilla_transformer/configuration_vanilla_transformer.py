"""Configurations: one base for all layers, and one each for text, images and detection; presets by name."""

import copy
import math
import re
from typing import Any, ClassVar, Literal, Self, cast

import torch
from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

from .config_checks import MOST_LAYERS, check_types, patch_weights, physical_memory, require_positive
from .presets import DETECTION_PRESETS, PRESETS, VISION_PRESETS


class LayersConfig(PreTrainedConfig):
    """The settings of layers and stacks: the base of every configuration here.

    Args:
        hidden_size: d_model, the width of every vector between layers.
        intermediate_size: d_ff, the inner width of the feed-forward networks.
        num_attention_heads: h.
        head_dim: d_k, the width of one head's queries and keys; `hidden_size // num_attention_heads` if None.
        value_dim: d_v, the width of one head's values; `hidden_size // num_attention_heads` if None.
        encoder_layers, decoder_layers: N of each stack; with 0 there is no such stack.
        dropout: P_drop, on the output of each sublayer and the input of each stack (section 5.4).
        norm_position: "post" normalises the sum of residual and sublayer as the paper does; "pre" normalises
            the input of each sublayer and the output of the stack.
        norm_type: "layer", as in the paper, or "batch", with the statistics of the batch's real tokens:
            those that the masks, or `training_loss` by the labels, show as real.
        activation: of the feed-forward network; any name in `transformers.activations.ACT2FN`.
        layer_norm_eps: normalisation adds it to the variance.
        final_norm: whether a stack ends with one more norm; None for pre-norm alone, which needs it. The
            stacks of `torch.nn.Transformer` always do.
    """

    attribute_map = {
        "d_model": "hidden_size",
        "d_ff": "intermediate_size",
        "encoder_ffn_dim": "intermediate_size",
        "decoder_ffn_dim": "intermediate_size",
        "num_heads": "num_attention_heads",
        "encoder_attention_heads": "num_attention_heads",
        "decoder_attention_heads": "num_attention_heads",
        "activation_function": "activation",
        "hidden_act": "activation",
    }
    presets: ClassVar[dict[str, dict]] = {}
    code: ClassVar[dict[str, str]] = {}  # Auto class -> file and name of the class that it loads

    hidden_size: int = 512
    intermediate_size: int = 2048
    num_attention_heads: int = 8
    head_dim: int | None = None
    value_dim: int | None = None
    encoder_layers: int = 6
    decoder_layers: int = 6
    dropout: float | int = 0.1
    norm_position: Literal["post", "pre"] = "post"
    norm_type: Literal["layer", "batch"] = "layer"
    activation: str = "relu"
    layer_norm_eps: float = 1e-5
    final_norm: bool | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if "num_hidden_layers" in kwargs:
            raise ValueError(
                "num_hidden_layers is ambiguous for two stacks: set encoder_layers and decoder_layers instead"
            )
        for synonym in self.attribute_map.keys() & kwargs.keys():  # before head_dim is computed from them
            setattr(self, synonym, kwargs.pop(synonym))
        check_types(self, kwargs)
        require_positive(self, "hidden_size", "num_attention_heads")
        if self.head_dim is None or self.value_dim is None:
            if self.hidden_size % self.num_attention_heads:
                raise ValueError(
                    f"hidden_size={self.hidden_size} is not a multiple of "
                    f"num_attention_heads={self.num_attention_heads}; change one, or set head_dim and "
                    "value_dim"
                )
            head_width = self.hidden_size // self.num_attention_heads
            self.head_dim = head_width if self.head_dim is None else self.head_dim
            self.value_dim = head_width if self.value_dim is None else self.value_dim
        self.is_encoder_decoder = self.encoder_layers > 0 and self.decoder_layers > 0
        if not __name__.startswith("transformers_modules"):
            kwargs.pop("custom_pipelines", None)  # the package has registered its own, which need no trust
        super().__post_init__(**kwargs)

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> Self:
        """The configuration of this name in `presets`, with overrides; ValueError for an unknown name."""
        if name not in cls.presets:
            if smoothing := re.fullmatch(r"table3-D-smoothing-([\d.]+)", name):
                raise ValueError(
                    f"there is no preset {name!r}: smoothing belongs to the training. "
                    f"Use the preset table3-base with --label_smoothing_factor {smoothing[1]}"
                )
            raise ValueError(f"unknown preset {name!r}: choose one of {', '.join(cls.presets)}")
        return cls(**{**cls.presets[name], **overrides})

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The entries of a config.json; raises ValueError if it is that of another kind of model."""
        entries, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        found = entries.get("model_type", cls.model_type)
        if cls.model_type and found != cls.model_type:
            place = pretrained_model_name_or_path
            raise ValueError(
                f"{place} has a model of type {found!r}, but {cls.__name__} reads {cls.model_type!r}: its "
                "weights would not fit. Load it with an Auto class, such as AutoModelForSeq2SeqLM"
            )
        return entries, kwargs

    @property
    def num_hidden_layers(self) -> int:
        """The layers of the encoder or, without an encoder, of the decoder."""
        return self.encoder_layers or self.decoder_layers

    @num_hidden_layers.setter
    def num_hidden_layers(self, layers: int) -> None:
        # transformers' caches write `decoder_layers` to this name in a copy of the config, and read it there.
        if self.encoder_layers:
            self.encoder_layers = layers
        else:
            self.decoder_layers = layers

    def validate_layers(self) -> None:
        require_positive(
            self, "hidden_size", "intermediate_size", "num_attention_heads", "head_dim", "value_dim"
        )
        for name in ("encoder_layers", "decoder_layers"):
            if not 0 <= getattr(self, name) <= MOST_LAYERS:
                raise ValueError(f"{name}={getattr(self, name)} must be from 0 to {MOST_LAYERS:,}")
        if self.encoder_layers + self.decoder_layers == 0:
            raise ValueError("encoder_layers=0 and decoder_layers=0 leave no model: set one of them")

    def weight_counts(self) -> dict[str, int]:
        """The number of weights of the largest matrices, about, by the fields that set their size."""
        width, heads = self.hidden_size, self.num_attention_heads
        attention = 2 * width * heads * (cast("int", self.head_dim) + cast("int", self.value_dim))
        attentions = self.encoder_layers + self.decoder_layers * (2 if self.is_encoder_decoder else 1)
        layers = self.encoder_layers + self.decoder_layers
        return {
            f"num_attention_heads={heads} and hidden_size={width}": attention * attentions,
            f"intermediate_size={self.intermediate_size}": 2 * width * self.intermediate_size * layers,
            f"num_labels={self.num_labels}": width * cast("int", self.num_labels),
        }

    def require_memory(self) -> None:
        """Raises ValueError if the weights alone need more memory than this machine has.

        `from_pretrained` builds models on the meta device, which needs none.
        """
        if torch.get_default_device().type != "cpu":
            return
        counts = self.weight_counts()
        needed, memory = 4 * sum(counts.values()), physical_memory()
        if needed > memory:
            most = max(counts, key=lambda name: counts[name])
            raise ValueError(
                f"the weights of this model need {needed / 1e9:,.0f} GB in float32, but this machine has "
                f"{memory / 1e9:,.0f} GB; most of them follow from {most}"
            )

    def validate_activation(self) -> None:
        if self.activation not in ACT2FN:
            raise ValueError(f"activation={self.activation!r} is unknown: choose one of {', '.join(ACT2FN)}")

    def validate_dropout(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must be at least 0 and below 1")

    def validate_layer_norm_eps(self) -> None:
        if not 0 < self.layer_norm_eps < math.inf:
            raise ValueError(f"layer_norm_eps={self.layer_norm_eps} must be more than 0 and finite")


@strict
class VanillaTransformerConfig(LayersConfig):
    r"""The Transformer of "Attention Is All You Need"; `VanillaTransformerConfig()` is its base model.

    With `decoder_layers=0` it is an encoder (for classification or masked language modelling), with
    `encoder_layers=0` a decoder (for language modelling). It adds to the fields of `LayersConfig`:

    Args:
        vocab_size: number of words, shared by source, target and output.
        target_vocab_size: number of words of target and output, if they have a vocabulary of their own;
            `vocab_size` is then that of the source.
        position_embedding_type: "sinusoidal" (section 3.5), or "learned" (Table 3, row E).
        max_position_embeddings: number of learned positions. Sinusoids have no last position; with them this
            is the intended maximum length of an input.
        tie_word_embeddings: one matrix for source, target and output (section 3.4), or three. With
            `target_vocab_size` the source has its own matrix in any case.
        output_bias: whether a bias is added to the logits, as in Marian.
        pair_rows: number of vectors for pairs of neighbouring tokens, which text classification adds to the
            vectors of the tokens; 0 for none.
        pooling: the vector that text classification projects to labels: the "mean" over all tokens, or the
            first one, "class_token"; for it the tokenizer starts each text with `<s>`.
        word_dropout: share of the tokens of a text that text classification hides in training.
        use_cache: whether the decoder returns its keys and values, so that generation computes them once.

    Raises:
        ValueError: if values do not fit together; the message names them.

    Example:
        >>> config = VanillaTransformerConfig.from_preset("tiny", vocab_size=8000)
        >>> config.hidden_size, config.num_attention_heads, config.head_dim
        (128, 4, 32)
    """

    model_type = "vanilla_transformer"
    keys_to_ignore_at_inference = ["past_key_values"]
    presets = PRESETS
    code = {
        "AutoModel": "modeling_vanilla_transformer.VanillaTransformerModel",
        "AutoModelForSeq2SeqLM": "modeling_vanilla_transformer.VanillaTransformerForConditionalGeneration",
        "AutoModelForCausalLM": "modeling_vanilla_transformer.VanillaTransformerForCausalLM",
        **{
            f"AutoModel{head}": f"modeling_vanilla_transformer_encoder.VanillaTransformer{head}"
            for head in (
                "ForMaskedLM",
                "ForSequenceClassification",
                "ForTokenClassification",
                "ForQuestionAnswering",
            )
        },
    }

    vocab_size: int = 37000
    target_vocab_size: int | None = None
    position_embedding_type: Literal["sinusoidal", "learned"] = "sinusoidal"
    max_position_embeddings: int = 1024
    tie_word_embeddings: bool = True
    output_bias: bool = False
    pair_rows: int = 0
    pooling: Literal["mean", "class_token"] = "mean"
    word_dropout: float | int = 0.0
    use_cache: bool = True
    bos_token_id: int | None = 0
    pad_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    decoder_start_token_id: int | None = 0

    @property
    def output_vocab_size(self) -> int:
        """The number of words that the output can have."""
        return self.vocab_size if self.target_vocab_size is None else self.target_vocab_size

    @property
    def has_shared_embeddings(self) -> bool:
        """Whether source, target and output have one matrix."""
        return self.tie_word_embeddings and self.target_vocab_size is None

    def with_only(self, stack: Literal["encoder", "decoder"]) -> Self:
        """A copy without the other stack; raises ValueError if this stack has no layers."""
        if not getattr(self, f"{stack}_layers"):
            raise ValueError(f"{stack}_layers=0, but this model needs the {stack}: set {stack}_layers")
        config = copy.deepcopy(self)
        setattr(config, "encoder_layers" if stack == "decoder" else "decoder_layers", 0)
        config.is_encoder_decoder = False
        if stack == "decoder":
            config.vocab_size = config.output_vocab_size
        return config

    def weight_counts(self) -> dict[str, int]:
        width, stacks = self.hidden_size, bool(self.encoder_layers) + bool(self.decoder_layers)
        source = 0 if self.has_shared_embeddings else bool(self.encoder_layers)  # matrices
        target = 1 if self.tie_word_embeddings else 1 + bool(self.decoder_layers)
        words = self.output_vocab_size
        learned = self.position_embedding_type == "learned"
        positions = f"max_position_embeddings={self.max_position_embeddings}"
        return super().weight_counts() | {
            f"vocab_size={self.vocab_size}": width * (self.vocab_size * source + words * target),
            positions: width * self.max_position_embeddings * stacks * learned,
            f"pair_rows={self.pair_rows}": width * self.pair_rows,
        }

    def validate_words(self) -> None:
        require_positive(self, "vocab_size", "max_position_embeddings")
        if self.target_vocab_size is not None:
            require_positive(self, "target_vocab_size")
        if self.position_embedding_type == "sinusoidal" and self.hidden_size % 2:
            raise ValueError(f"hidden_size={self.hidden_size} must be even for sinusoidal positions")
        if self.pair_rows < 0:
            raise ValueError(f"pair_rows={self.pair_rows} must not be negative")
        if not 0 <= self.word_dropout < 1:
            raise ValueError(f"word_dropout={self.word_dropout} must be at least 0 and below 1")


@strict
class VanillaTransformerVisionConfig(LayersConfig):
    """Images as sequences of patches (Dosovitskiy et al. 2021, ViT); the default is its ViT-B/16.

    It adds to the fields of `LayersConfig`:

    Args:
        image_size: height and width, in pixels, of the images that have one position per patch; for other
            sizes the positions are interpolated.
        patch_size: height and width of a patch in pixels.
        stem: "patches" projects each patch alone; "convolutions" looks across the borders of patches, which
            learns faster from few images and needs a power of 2 as patch_size.
        num_channels: of the images, 3 for RGB.
        position_embedding_type: "learned", or "sinusoidal" in two dimensions.
        pooling: the vector that represents the image: a "class_token" before the patches, or their "mean".

    Raises:
        ValueError: if values do not fit together; the message names them.

    Example:
        >>> config = VanillaTransformerVisionConfig.from_preset("tiny", num_labels=10)
    """

    model_type = "vanilla_transformer_vision"
    presets = VISION_PRESETS
    code = {
        "AutoModel": "modeling_vanilla_transformer_vision.VanillaTransformerVisionModel",
        "AutoModelForImageClassification": (
            "modeling_vanilla_transformer_vision.VanillaTransformerForImageClassification"
        ),
    }

    image_size: int = 224
    patch_size: int = 16
    stem: Literal["patches", "convolutions"] = "patches"
    num_channels: int = 3
    position_embedding_type: Literal["learned", "sinusoidal"] = "learned"
    pooling: Literal["class_token", "mean"] = "class_token"
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_attention_heads: int = 12
    encoder_layers: int = 12
    decoder_layers: int = 0
    dropout: float | int = 0.0
    norm_position: Literal["post", "pre"] = "pre"
    activation: str = "gelu"
    layer_norm_eps: float = 1e-12

    def weight_counts(self) -> dict[str, int]:
        learned = self.position_embedding_type == "learned"
        patches = (self.image_size // self.patch_size) ** 2
        return super().weight_counts() | {
            f"image_size={self.image_size}": self.hidden_size * patches * learned,
            f"patch_size={self.patch_size}": patch_weights(self),
        }

    def validate_image(self) -> None:
        require_positive(self, "image_size", "patch_size", "num_channels")
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size={self.image_size} is not a multiple of patch_size={self.patch_size}"
            )
        if self.stem == "convolutions" and self.patch_size & (self.patch_size - 1):
            raise ValueError(f"patch_size={self.patch_size} must be a power of 2 for stem='convolutions'")
        if self.position_embedding_type == "sinusoidal" and self.hidden_size % 4:
            raise ValueError(
                f"hidden_size={self.hidden_size} must be a multiple of 4 for sinusoidal positions"
            )

    def validate_stacks(self) -> None:
        if self.decoder_layers or not self.encoder_layers:
            raise ValueError(
                "an image model is an encoder alone: set encoder_layers above 0 and decoder_layers=0, not "
                f"encoder_layers={self.encoder_layers} and decoder_layers={self.decoder_layers}"
            )


@strict
class VanillaTransformerDetectionConfig(LayersConfig):
    """An encoder reads the cells of an image, and a decoder finds objects (Carion et al. 2020, DETR).

    It adds to the fields of `LayersConfig`:

    Args:
        num_channels: of the images, 3 for RGB.
        patch_size: height and width of a cell in pixels; much smaller objects are hard to find.
        stem: "convolutions" looks across the borders of cells, which learns faster and needs a power of 2 as
            patch_size; "patches" projects each cell alone.
        num_queries: the maximum number of objects that the model can find in an image.
        anchor_size: height and width, in cells, of the box that every cell starts from: that of a typical
            object.

    Raises:
        ValueError: if values do not fit together; the message names them.

    Example:
        >>> config = VanillaTransformerDetectionConfig.from_preset("tiny", num_labels=2)
    """

    model_type = "vanilla_transformer_detection"
    keys_to_ignore_at_inference = [
        *("loss_dict", "auxiliary_outputs", "last_hidden_state"),
        *("decoder_hidden_states", "decoder_attentions", "cross_attentions"),
        *("encoder_last_hidden_state", "encoder_hidden_states", "encoder_attentions"),
    ]
    presets = DETECTION_PRESETS
    code = {
        "AutoModel": "modeling_vanilla_transformer_detection.VanillaTransformerDetectionModel",
        "AutoModelForObjectDetection": (
            "modeling_vanilla_transformer_detection.VanillaTransformerForObjectDetection"
        ),
    }

    num_channels: int = 3
    patch_size: int = 16
    stem: Literal["patches", "convolutions"] = "convolutions"
    num_queries: int = 100
    anchor_size: float | int = 3
    hidden_size: int = 256
    intermediate_size: int = 2048
    norm_position: Literal["post", "pre"] = "pre"

    def weight_counts(self) -> dict[str, int]:
        return super().weight_counts() | {f"patch_size={self.patch_size}": patch_weights(self)}

    def validate_image(self) -> None:
        require_positive(self, "num_channels", "patch_size", "num_queries")
        if not 0 < self.anchor_size < math.inf:
            raise ValueError(f"anchor_size={self.anchor_size} must be more than 0 and finite")
        if self.stem == "convolutions" and self.patch_size & (self.patch_size - 1):
            raise ValueError(f"patch_size={self.patch_size} must be a power of 2 for stem='convolutions'")
        if self.hidden_size % 4:
            raise ValueError(
                f"hidden_size={self.hidden_size} must be a multiple of 4 for positions in two dimensions"
            )

    def validate_stacks(self) -> None:
        if not (self.encoder_layers and self.decoder_layers):
            raise ValueError(
                f"detection needs both stacks, but encoder_layers={self.encoder_layers} and "
                f"decoder_layers={self.decoder_layers}: set both above 0"
            )


__all__ = [
    "DETECTION_PRESETS",
    "PRESETS",
    "VISION_PRESETS",
    "LayersConfig",
    "VanillaTransformerConfig",
    "VanillaTransformerDetectionConfig",
    "VanillaTransformerVisionConfig",
]
