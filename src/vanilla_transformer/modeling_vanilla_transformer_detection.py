"""Object detection: the encoder reads the cells of an image, the decoder finds a box and a label per query.

The decoder is the paper's without the causal mask, and positions are added to queries and keys (Carion et al.
2020, DETR). With learned queries it would need hundreds of epochs to learn where to look. Here the queries
are the cells that look most like objects, each with the box that it proposes (Zhu et al. 2021, Deformable
DETR, section 4.2, "two-stage").
"""

import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.loss.loss_rt_detr import RTDetrHungarianMatcher, RTDetrLoss
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_vanilla_transformer import VanillaTransformerDetectionConfig
from .embeddings import ConvolutionalStem, PatchEmbedding, sinusoids_2d
from .stacks import Decoder, Encoder, VanillaTransformerPreTrainedModel

PRIOR = 0.01  # the probability of every label before training
PADDING_LOGIT = -1e4  # of every label where there is only padding; -inf would make the loss NaN

# Costs of the matching and weights of the losses, those of RT-DETR (Zhao et al. 2024, table A).
LOSS = {
    "matcher_class_cost": 2.0,
    "matcher_bbox_cost": 5.0,
    "matcher_giou_cost": 2.0,
    "use_focal_loss": True,
    "matcher_alpha": 0.25,
    "matcher_gamma": 2.0,
    "weight_loss_vfl": 1.0,
    "weight_loss_bbox": 5.0,
    "weight_loss_giou": 2.0,
    "focal_loss_alpha": 0.75,
    "focal_loss_gamma": 2.0,
    "eos_coefficient": 1e-4,
}


@dataclass
class VanillaTransformerDetectionModelOutput(ModelOutput):
    """
    Args:
        last_hidden_state: `(batch, queries, width)`, the decoder's output.
        intermediate_hidden_states: `(layers, batch, queries, width)`, the output of each layer, normalised.
        reference_boxes: `(batch, queries, 4)`, the boxes that the queries start from, as logits.
        query_mask: `(batch, queries)`, false for the queries that an image has no cells for.
        proposal_logits, proposal_boxes: `(batch, cells, labels)` and `(batch, cells, 4)`, from the encoder.
    """

    last_hidden_state: torch.Tensor | None = None
    intermediate_hidden_states: torch.Tensor | None = None
    reference_boxes: torch.Tensor | None = None
    query_mask: torch.Tensor | None = None
    proposal_logits: torch.Tensor | None = None
    proposal_boxes: torch.Tensor | None = None
    decoder_hidden_states: tuple[torch.Tensor, ...] | None = None
    decoder_attentions: tuple[torch.Tensor, ...] | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None
    encoder_last_hidden_state: torch.Tensor | None = None
    encoder_hidden_states: tuple[torch.Tensor, ...] | None = None
    encoder_attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class VanillaTransformerDetectionOutput(ModelOutput):
    """
    Args:
        loss: the sum of `loss_dict`.
        loss_dict: the losses of labels, box corners and overlap; `_0`, `_1`, … are those of the decoder's
            earlier layers, `_proposals` those of the encoder.
        logits: `(batch, queries, labels)`; their sigmoids are the scores.
        pred_boxes: `(batch, queries, 4)`, (center x, center y, width, height) as fractions of the image
            without its padding.
        auxiliary_outputs: `logits` and `pred_boxes` of the decoder's earlier layers, if there are labels.
    """

    loss: torch.Tensor | None = None
    loss_dict: dict | None = None
    logits: torch.Tensor | None = None
    pred_boxes: torch.Tensor | None = None
    auxiliary_outputs: list[dict] | None = None
    last_hidden_state: torch.Tensor | None = None
    decoder_hidden_states: tuple[torch.Tensor, ...] | None = None
    decoder_attentions: tuple[torch.Tensor, ...] | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None
    encoder_last_hidden_state: torch.Tensor | None = None
    encoder_hidden_states: tuple[torch.Tensor, ...] | None = None
    encoder_attentions: tuple[torch.Tensor, ...] | None = None


class ClassLogits(nn.Linear):
    """Logits that make every label improbable before training (Lin et al. 2017, Focal Loss, section 3.3)."""


class ZeroInitLinear(nn.Linear):
    """A projection that returns zeros before training."""


class DetectionHead(nn.Module):
    """Predicts labels, and a box as its distance from a reference box."""

    def __init__(self, config: VanillaTransformerDetectionConfig):
        super().__init__()
        width = config.hidden_size
        self.classifier = ClassLogits(width, cast("int", config.num_labels))
        self.box = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), ZeroInitLinear(width, 4)
        )

    def forward(self, states: torch.Tensor, references: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """States `(..., width)` and reference boxes as logits `(..., 4)` to logits and boxes."""
        return self.classifier(states), (references + self.box(states)).sigmoid()


class VanillaTransformerDetectionPreTrainedModel(VanillaTransformerPreTrainedModel):
    """The base of the detection models."""

    config: VanillaTransformerDetectionConfig
    config_class = VanillaTransformerDetectionConfig
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    _no_split_modules = ["EncoderLayer", "DecoderLayer", "ConvolutionalStem"]

    def get_input_embeddings(self) -> nn.Module:
        return cast("nn.Module", self.base_model.stem)

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.base_model.stem = value

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, ClassLogits):
            init.constant_(module.bias, -math.log(1 / PRIOR - 1))
        elif isinstance(module, ZeroInitLinear):
            init.zeros_(module.weight)


class VanillaTransformerDetectionModel(VanillaTransformerDetectionPreTrainedModel):
    """From pixels to a vector for each object query, without the head that predicts labels and boxes.

    Example:
        >>> model = VanillaTransformerDetectionModel(VanillaTransformerDetectionConfig.from_preset("tiny"))
        >>> model(torch.rand(2, 3, 96, 128)).last_hidden_state.shape  # (batch, queries, width)
        torch.Size([2, 30, 96])
    """

    def __init__(self, config: VanillaTransformerDetectionConfig):
        super().__init__(config)
        sizes = config.num_channels, config.patch_size, config.hidden_size
        stem = config.stem == "convolutions"
        self.stem = ConvolutionalStem(*sizes) if stem else PatchEmbedding(*sizes)
        self.encoder = Encoder(config)
        self.proposals = DetectionHead(config)
        self.size_projection = ZeroInitLinear(config.hidden_size, config.hidden_size, bias=False)
        self.decoder = Decoder(config, is_causal=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self, pixel_values: torch.Tensor, pixel_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> VanillaTransformerDetectionModelOutput:
        """
        Args:
            pixel_values: `(batch, channels, height, width)`.
            pixel_mask: `(batch, height, width)`, 1 for the image and 0 for padding, which must be on the
                right and at the bottom.
        """
        cells, mask, extent = self._cells(pixel_values, pixel_mask)
        batch, rows, columns, _ = cells.shape
        centers = _centers(rows, columns, cells)  # (cells, 2)
        positions = sinusoids_2d(centers[:, 1], centers[:, 0], self.config.hidden_size)[None].to(cells.dtype)
        encoded = self.encoder(cells.flatten(1, 2), mask, position_vectors=positions, **kwargs)
        memory = encoded.last_hidden_state  # (batch, cells, width)

        sizes = torch.full_like(centers, self.config.anchor_size)
        anchors = torch.cat((centers, sizes), dim=-1) / extent.repeat(1, 2)[:, None]  # (batch, cells, 4)
        logits, boxes = self.proposals(memory, anchors.logit(eps=1e-4).to(memory.dtype))
        if mask is not None:
            logits = logits.masked_fill(~mask[..., None], PADDING_LOGIT)

        best = logits.detach().amax(-1).topk(min(self.config.num_queries, rows * columns)).indices
        references = boxes.detach().gather(1, best[..., None].expand(-1, -1, 4))  # (batch, queries, 4)
        query_mask = None if mask is None else mask.gather(1, best)
        layers: list[torch.Tensor] = []
        decoded = self.decoder(
            memory.gather(1, best[..., None].expand(-1, -1, memory.shape[-1])),
            query_mask,
            memory,
            mask,
            position_vectors=self._positions(references * extent.repeat(1, 2)[:, None], memory.dtype),
            memory_position_vectors=positions.expand(batch, -1, -1),
            layer_outputs=layers,
            **kwargs,
        )
        return VanillaTransformerDetectionModelOutput(
            last_hidden_state=decoded.last_hidden_state,
            intermediate_hidden_states=torch.stack(layers),
            reference_boxes=references.logit(eps=1e-4),
            query_mask=query_mask,
            proposal_logits=logits,
            proposal_boxes=boxes,
            decoder_hidden_states=decoded.hidden_states,
            decoder_attentions=decoded.attentions,
            cross_attentions=decoded.cross_attentions,
            encoder_last_hidden_state=memory,
            encoder_hidden_states=encoded.hidden_states,
            encoder_attentions=encoded.attentions,
        )

    def _cells(
        self, pixels: torch.Tensor, pixel_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """
        Returns:
            the cells `(batch, rows, columns, width)`, the mask of the real ones `(batch, cells)` or None, and
            the width and height of each image in cells `(batch, 2)`, not always a whole number.
        """
        pixels = pixels.to(self.dtype)
        size = self.config.patch_size
        missing = [-length % size for length in pixels.shape[-2:]]
        if pixel_mask is None and any(missing):
            pixel_mask = pixels.new_ones(pixels[:, 0].shape)
        if pixel_mask is None:
            extent = pixels.new_tensor(
                [pixels.shape[-1] / size, pixels.shape[-2] / size], dtype=torch.float32
            )
            return self.stem(pixels), None, extent.expand(len(pixels), 2)
        margins = (0, missing[1], 0, missing[0])
        pixels, pixel_mask = F.pad(pixels, margins), F.pad(pixel_mask, margins).bool()
        extent = torch.stack((pixel_mask.any(1).sum(-1), pixel_mask.any(2).sum(-1)), dim=-1) / size
        cells = self.stem(pixels * pixel_mask[:, None], pixel_mask)
        return cells, pixel_mask[:, ::size, ::size].flatten(1), extent

    def _positions(self, boxes: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Position vectors of boxes `(..., 4)`, which are measured in cells.

        They are the sinusoids of the center, as for a cell, plus projected sinusoids of the size.
        """
        x, y, width, height = boxes.unbind(-1)
        size = sinusoids_2d(height, width, self.config.hidden_size).to(dtype)
        return sinusoids_2d(y, x, self.config.hidden_size).to(dtype) + self.size_projection(size)


def _centers(rows: int, columns: int, like: torch.Tensor) -> torch.Tensor:
    """(x, y) of the center of each cell, row by row, `(cells, 2)`; a cell has side 1."""
    y, x = torch.meshgrid(
        torch.arange(rows, device=like.device) + 0.5,
        torch.arange(columns, device=like.device) + 0.5,
        indexing="ij",
    )
    return torch.stack((x, y), dim=-1).flatten(0, 1)


class VanillaTransformerForObjectDetection(VanillaTransformerDetectionPreTrainedModel):
    """A label and a box for each query; the loss compares the best one-to-one match with the objects.

    Example:
        >>> config = VanillaTransformerDetectionConfig.from_preset("tiny", num_labels=2)
        >>> output = VanillaTransformerForObjectDetection(config)(torch.rand(2, 3, 96, 128))
        >>> output.logits.shape, output.pred_boxes.shape
        (torch.Size([2, 30, 2]), torch.Size([2, 30, 4]))
    """

    def __init__(self, config: VanillaTransformerDetectionConfig):
        super().__init__(config)
        self.model = VanillaTransformerDetectionModel(config)
        self.head = DetectionHead(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        pixel_mask: torch.Tensor | None = None,
        labels: list[dict[str, torch.Tensor]] | None = None,
        **kwargs: Any,
    ) -> VanillaTransformerDetectionOutput:
        """
        Args:
            labels: for each image `class_labels`, `(objects,)`, and `boxes`, `(objects, 4)`, as the image
                processor returns them: (center x, center y, width, height) as fractions of the image
                without its padding.
        """
        found = self.model(pixel_values, pixel_mask, **kwargs)
        logits, boxes = self.head(found.intermediate_hidden_states, found.reference_boxes)
        if found.query_mask is not None:
            logits = logits.masked_fill(~found.query_mask[..., None], PADDING_LOGIT)
        loss = losses = auxiliary = None
        if labels is not None:
            layers = [{"logits": a, "pred_boxes": b} for a, b in zip(logits, boxes)]
            proposals = {"logits": found.proposal_logits, "pred_boxes": found.proposal_boxes}
            losses, auxiliary = self._losses(layers, proposals, labels), layers[:-1]
            loss = sum(losses.values(), start=logits.new_zeros(()))
        shared = VanillaTransformerDetectionOutput.__dataclass_fields__.keys() & found.keys()
        return VanillaTransformerDetectionOutput(
            loss=loss,
            loss_dict=losses,
            logits=logits[-1],
            pred_boxes=boxes[-1],
            auxiliary_outputs=auxiliary,
            **{name: found[name] for name in shared},
        )

    def _losses(self, layers: list[dict], proposals: dict, labels: list[dict]) -> dict[str, torch.Tensor]:
        """The losses of each decoder layer and of the proposals, each with a match of its own."""
        criterion = RTDetrLoss(SimpleNamespace(num_labels=self.config.num_labels, **LOSS)).to(self.device)
        criterion.matcher = ImageByImageMatcher(SimpleNamespace(**LOSS))
        losses = criterion(layers[-1], labels)
        earlier = {str(index): layer for index, layer in enumerate(layers[:-1])}
        for suffix, found in (earlier | {"proposals": proposals}).items():
            losses |= {f"{name}_{suffix}": loss for name, loss in criterion(found, labels).items()}
        return losses


class ImageByImageMatcher(RTDetrHungarianMatcher):
    """transformers' matcher, run for one image at a time.

    For a whole batch it would also compare the queries of each image with the objects of all other images:
    half of the time of a small model with a hundred cells and dozens of objects.
    """

    def forward(self, outputs: dict[str, torch.Tensor], targets: list[dict]) -> list[tuple]:
        outputs = {name: outputs[name].detach().float() for name in ("logits", "pred_boxes")}
        return [
            super(ImageByImageMatcher, self).forward(
                {name: output[index : index + 1] for name, output in outputs.items()}, [target]
            )[0]
            for index, target in enumerate(targets)
        ]


__all__ = [
    "VanillaTransformerForObjectDetection",
    "VanillaTransformerDetectionModel",
    "VanillaTransformerDetectionPreTrainedModel",
]
