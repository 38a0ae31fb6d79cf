"""The vision models: an encoder that reads patches (Dosovitskiy et al. 2021), and a head for the image."""

from typing import Any, cast

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.utils import can_return_tuple

from .configuration_vanilla_transformer import VanillaTransformerVisionConfig
from .embeddings import ConvolutionalStem, LearnedGrid, PatchEmbedding, SinusoidalGrid
from .losses import share_of_update
from .stacks import Encoder, VanillaTransformerPreTrainedModel


class VanillaTransformerVisionPreTrainedModel(VanillaTransformerPreTrainedModel):
    """The base of the vision models."""

    config: VanillaTransformerVisionConfig
    config_class = VanillaTransformerVisionConfig
    main_input_name = "pixel_values"
    input_modalities = ["image"]

    def get_input_embeddings(self) -> nn.Module:
        model: Any = self.base_model
        return model.encoder.embed_patches


class VisionEncoder(Encoder):
    """The encoder with its patch embeddings."""

    config: VanillaTransformerVisionConfig
    config_class = VanillaTransformerVisionConfig
    main_input_name = "pixel_values"

    def __init__(self, config: VanillaTransformerVisionConfig):
        super().__init__(config)
        stem = ConvolutionalStem if config.stem == "convolutions" else PatchEmbedding
        self.embed_patches = stem(config.num_channels, config.patch_size, config.hidden_size)
        size = config.image_size // config.patch_size
        self.embed_positions = (
            LearnedGrid(size, config.hidden_size)
            if config.position_embedding_type == "learned"
            else SinusoidalGrid(size)
        )
        if config.pooling == "class_token":
            self.class_token = nn.Embedding(1, config.hidden_size)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embed_patches

    def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutput:
        """Images `(batch, channels, height, width)` to vectors `(batch, length, width)`.

        The class token comes first if there is one, then the patches row by row.
        """
        patches = self.embed_patches(pixel_values.to(self.dtype))
        states = self.embed_positions(patches).flatten(1, 2)  # (batch, patches, width)
        if self.config.pooling == "class_token":
            first = self.class_token(torch.zeros_like(states[:, :1, 0], dtype=torch.long))
            states = torch.cat((first, states), dim=1)
        return super().forward(states, **kwargs)


class VanillaTransformerVisionModel(VanillaTransformerVisionPreTrainedModel):
    """The image encoder without a head; `pooler_output`, `(batch, width)`, represents the whole image.

    Example:
        >>> model = VanillaTransformerVisionModel(VanillaTransformerVisionConfig.from_preset("tiny"))
        >>> model(torch.rand(2, 3, 32, 32)).pooler_output.shape
        torch.Size([2, 64])
    """

    def __init__(self, config: VanillaTransformerVisionConfig):
        super().__init__(config)
        self.encoder = VisionEncoder(config)
        self.post_init()

    @can_return_tuple
    def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Images `(batch, channels, height, width)`; height and width are multiples of the patch size."""
        outputs = self.encoder(pixel_values, **kwargs)
        states = outputs.last_hidden_state
        pooled = states[:, 0] if self.config.pooling == "class_token" else states.mean(1)
        return BaseModelOutputWithPooling(
            last_hidden_state=states,
            pooler_output=pooled,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class VanillaTransformerForImageClassification(VanillaTransformerVisionPreTrainedModel):
    """The vector of the whole image, projected to the labels.

    Example:
        >>> config = VanillaTransformerVisionConfig.from_preset("tiny", num_labels=10)
        >>> VanillaTransformerForImageClassification(config)(torch.rand(2, 3, 32, 32)).logits.shape
        torch.Size([2, 10])
    """

    def __init__(self, config: VanillaTransformerVisionConfig):
        super().__init__(config)
        self.num_labels = cast("int", config.num_labels)
        self.model = VanillaTransformerVisionModel(config)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.hidden_size, self.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> ImageClassifierOutput:
        """
        Args:
            pixel_values: `(batch, channels, height, width)`; multiples of the patch size.
            labels: `(batch,)` class ids; `(batch, labels)` of 0 and 1 for several classes per image; real
                numbers for regression.
            num_items_in_batch: the labels of the whole update, when gradients are accumulated.
        """
        outputs = self.model(pixel_values, **kwargs)
        logits = self.classifier(self.dropout(outputs.pooler_output))
        loss = None
        if labels is not None:
            loss = share_of_update(
                self.loss_function(labels, logits, self.config), labels, num_items_in_batch
            )
        return ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


__all__ = [
    "VanillaTransformerForImageClassification",
    "VanillaTransformerVisionModel",
    "VanillaTransformerVisionPreTrainedModel",
]
