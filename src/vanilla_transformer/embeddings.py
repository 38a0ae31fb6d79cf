"""Embeddings of words, image patches and positions (sections 3.4 and 3.5)."""

import math
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_vanilla_transformer import VanillaTransformerConfig
from .losses import IGNORE_INDEX
from .products import Linear


def sinusoids(positions: torch.Tensor, width: int) -> torch.Tensor:
    """The paper's positional encoding (section 3.5), float32 `(*positions.shape, width)`.

    PE(pos, 2i) = sin(pos / 10000^(2i / width)) and PE(pos, 2i+1) = cos(pos / 10000^(2i / width)).
    Angles are computed in float64: in float32 they are wrong by 1e-4 at position 5,000.
    """
    exact = torch.float32 if positions.device.type == "mps" else torch.float64  # Apple GPUs have no float64
    even_columns = torch.arange(0, width, 2, dtype=exact, device=positions.device)
    angles = positions[..., None].to(exact) / 10000 ** (even_columns / width)  # (..., width / 2)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2).float()


def sinusoids_2d(rows: torch.Tensor, columns: torch.Tensor, width: int) -> torch.Tensor:
    """Sinusoids of points in a plane: one half of the width encodes the row, the other half the column.

    Rows and columns have one shape and may be fractions; the width must be a multiple of 4.
    """
    return torch.cat((sinusoids(rows, width // 2), sinusoids(columns, width // 2)), dim=-1)


class TokenEmbedding(nn.Embedding):
    """Ids to vectors, multiplied by √d_model (section 3.4)."""

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return super().forward(input_ids) * math.sqrt(self.embedding_dim)


class SinusoidalPositions(nn.Module):
    """Adds sinusoids to `(batch, length, width)` vectors, at any position; it has no weights.

    `end` is one past the last of `positions`, if the caller knows it without waiting for the device.
    """

    def forward(self, states: torch.Tensor, positions: torch.Tensor, end: int = 0) -> torch.Tensor:
        width = states.shape[-1]
        if 0 < end < positions.numel():  # rows share positions: each is computed once
            table = sinusoids(torch.arange(end, device=positions.device), width)
            return (states + F.embedding(positions, table)).to(states.dtype)
        return (states + sinusoids(positions, width)).to(states.dtype)


class LearnedPositions(nn.Embedding):
    """Adds a learned vector for each position (Table 3, row E); raises ValueError past the last one.

    `end` is one past the last of `positions`, if the caller knows it without waiting for the device.
    """

    def forward(  # type: ignore[override]  # it adds to the states, which nn.Embedding does not have
        self, states: torch.Tensor, positions: torch.Tensor, end: int = 0
    ) -> torch.Tensor:
        self.check(max(end, positions.shape[-1]), self.num_embeddings)
        return states + super().forward(positions)

    @staticmethod
    def check(end: int, learned: int) -> None:
        """Raises ValueError if an input of `end` tokens has more than the learned positions."""
        if end > learned:
            raise ValueError(
                f"the input has {end} tokens, but max_position_embeddings={learned}: shorten it, or train "
                "with a larger max_position_embeddings"
            )


def position_embedding(config: VanillaTransformerConfig) -> SinusoidalPositions | LearnedPositions:
    if config.position_embedding_type == "learned":
        return LearnedPositions(config.max_position_embeddings, config.hidden_size)
    return SinusoidalPositions()


def positions_of_tokens(
    states: torch.Tensor, attention_mask: torch.Tensor | None, past_length: torch.Tensor | int = 0
) -> torch.Tensor:
    """The positions of the last tokens of each row: `(1, length)`, or `(batch, length)` with a mask.

    Padding on the left moves no token. A masked token between others keeps its position.
    """
    positions = (torch.arange(states.shape[1], device=states.device) + past_length)[None]
    if attention_mask is None or attention_mask.dim() != 2:
        return positions
    padding = (attention_mask.cumsum(-1) == 0).sum(-1, keepdim=True)  # (batch, 1), on the left
    return (positions - padding).clamp(min=0)


def shift_right(labels: torch.Tensor, config: VanillaTransformerConfig) -> torch.Tensor:
    """The decoder's input for these labels: the start token, then all labels but the last (figure 1)."""
    start_id, pad_id = cast("tuple[int, int]", (config.decoder_start_token_id, config.pad_token_id))
    start = labels.new_full((labels.shape[0], 1), start_id)
    shifted = torch.cat((start, labels[:, :-1]), dim=1)
    return shifted.masked_fill(shifted == IGNORE_INDEX, pad_id)


class PatchEmbedding(nn.Module):
    """Cuts images into square patches and projects each patch to a vector (ViT, section 3.1)."""

    def __init__(self, channels: int, patch_size: int, width: int):
        super().__init__()
        self.channels, self.patch_size = channels, patch_size
        self.projection = Linear(channels * patch_size**2, width)

    def forward(self, pixel_values: torch.Tensor, pixel_mask: torch.Tensor | None = None) -> torch.Tensor:
        """`(batch, channels, height, width)` to `(batch, rows, columns, width)`; ignores the mask."""
        check_pixels(pixel_values, self.channels, self.patch_size)
        patches = F.pixel_unshuffle(pixel_values, self.patch_size)  # (batch, channels * size², rows, columns)
        return self.projection(patches.movedim(1, -1))


class ResidualConvolution(nn.Module):
    """ReLU(x + BatchNorm(Convolution(x))), of the same size as x."""

    def __init__(self, width: int):
        super().__init__()
        self.convolution = nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return F.relu(states + self.norm(self.convolution(states)))


class ConvolutionalStem(nn.Module):
    """Convolutions that halve the image, each followed by a residual one; a patch sees across its borders.

    It learns faster from few images than `PatchEmbedding` (after Xiao et al. 2021, "Early Convolutions Help
    Transformers See Better"). `patch_size`, a power of 2, is the distance of two vectors in pixels.
    """

    def __init__(self, channels: int, patch_size: int, width: int):
        super().__init__()
        self.channels, self.patch_size = channels, patch_size
        halvings = patch_size.bit_length() - 1
        widths = [max(width >> step, 1) for step in reversed(range(halvings))]  # 64, 128 for two halvings
        self.convolutions = nn.Sequential()
        for before, after in zip([channels, *widths], widths):
            self.convolutions.extend(
                [
                    nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1, bias=False),
                    nn.BatchNorm2d(after),
                    nn.ReLU(),
                    ResidualConvolution(after),
                ]
            )
        self.projection = Linear(widths[-1] if widths else channels, width)

    def forward(self, pixel_values: torch.Tensor, pixel_mask: torch.Tensor | None = None) -> torch.Tensor:
        """`(batch, channels, height, width)` to `(batch, rows, columns, width)`.

        `pixel_mask`, `(batch, height, width)`, is false for padding; every convolution reads zeros there, as
        beyond the border of an image.
        """
        check_pixels(pixel_values, self.channels, self.patch_size)
        states = pixel_values
        for layer in self.convolutions:
            states = layer(states)
            if pixel_mask is not None:
                pixel_mask = pixel_mask[:, ::2, ::2] if isinstance(layer, nn.Conv2d) else pixel_mask
                states = states * pixel_mask[:, None]
        return self.projection(states.movedim(1, -1))


def check_pixels(pixel_values: torch.Tensor, channels: int, patch_size: int) -> None:
    found, height, width = pixel_values.shape[-3:]
    if found != channels:
        raise ValueError(
            f"the images have {found} channels, but num_channels={channels}: convert them, or train a model "
            f"with num_channels={found}"
        )
    if height % patch_size or width % patch_size:
        raise ValueError(
            f"an image of {height} x {width} pixels does not divide into patches of {patch_size} x "
            f"{patch_size}: resize or pad it to multiples of {patch_size}"
        )


class SinusoidalGrid(nn.Module):
    """Adds 2-D sinusoids to `(batch, rows, columns, width)` vectors; it has no weights.

    Positions are those of a grid of `size` x `size`; a finer or coarser grid is scaled to it, because it
    covers the same picture.
    """

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        rows, columns = (self._centers(count, states.device) for count in states.shape[1:3])
        rows, columns = torch.meshgrid(rows, columns, indexing="ij")
        return (states + sinusoids_2d(rows, columns, states.shape[-1])).to(states.dtype)

    def _centers(self, count: int, device: torch.device) -> torch.Tensor:
        """The centers of `count` equal parts of the side, `(count,)`, where the side has length `size`."""
        return (torch.arange(count, device=device) + 0.5) * (self.size / count) - 0.5


class LearnedGrid(nn.Embedding):
    """Adds a learned vector for each cell of a grid to `(batch, rows, columns, width)` vectors.

    If the grid is not `size` x `size`, the learned vectors are interpolated (ViT, section 3.2).
    """

    def __init__(self, size: int, width: int):
        super().__init__(size * size, width)
        self.size = size

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        cells = torch.arange(self.num_embeddings, device=states.device)
        grid = super().forward(cells).unflatten(0, (self.size, self.size))  # (size, size, width)
        if states.shape[1:3] != grid.shape[:2]:
            grid = grid.movedim(-1, 0)[None]  # (1, width, size, size)
            grid = F.interpolate(grid, size=states.shape[1:3], mode="bicubic", align_corners=False)
            grid = grid[0].movedim(0, -1)
        return states + grid
