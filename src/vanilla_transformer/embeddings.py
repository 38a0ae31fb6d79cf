"""Words, patches of images, and positions as vectors (sections 3.4 and 3.5)."""

import math

import torch
from torch import nn
from torch.nn import functional as F


def sinusoids(positions: torch.Tensor, width: int) -> torch.Tensor:
    """The paper's positional encoding (section 3.5), float32 `(*positions.shape, width)`.

    PE(pos, 2i) = sin(pos / 10000^(2i / width)) and PE(pos, 2i+1) = cos(pos / 10000^(2i / width)).
    Angles are taken in float64: in float32 they are off by 1e-4 at position 5,000.
    """
    exact = torch.float32 if positions.device.type == "mps" else torch.float64  # Apple GPUs have no float64
    even_columns = torch.arange(0, width, 2, dtype=exact, device=positions.device)
    angles = positions[..., None].to(exact) / 10000 ** (even_columns / width)  # (..., width / 2)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2).float()


def sinusoids_2d(rows: torch.Tensor, columns: torch.Tensor, width: int) -> torch.Tensor:
    """Sinusoids of a place in the plane: half of the width for its row, half for its column.

    Rows and columns are of one shape, in patches, and need not be whole; the width is a multiple of 4.
    """
    return torch.cat((sinusoids(rows, width // 2), sinusoids(columns, width // 2)), dim=-1)


class TokenEmbedding(nn.Embedding):
    """Ids to vectors, multiplied by √d_model (section 3.4)."""

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return super().forward(input_ids) * math.sqrt(self.embedding_dim)


class SinusoidalPositions(nn.Module):
    """Adds sinusoids to `(batch, length, width)` vectors; holds no weights and has no longest position."""

    def forward(self, states: torch.Tensor, positions: torch.Tensor, end: int = 0) -> torch.Tensor:
        return (states + sinusoids(positions, states.shape[-1])).to(states.dtype)


class LearnedPositions(nn.Embedding):
    """Adds a learned vector for each position (Table 3, row E); positions end at the table's last row.

    `end` is one past the last position, where that is known without reading `positions` off the device.
    """

    def forward(self, states: torch.Tensor, positions: torch.Tensor, end: int = 0) -> torch.Tensor:
        if (end := max(end, positions.shape[-1])) > self.num_embeddings:
            raise ValueError(
                f"the input has {end} tokens, but max_position_embeddings="
                f"{self.num_embeddings}; shorten it, or train with a larger max_position_embeddings"
            )
        return states + super().forward(positions)


class PatchEmbedding(nn.Module):
    """Images cut into square patches, their words, each projected to a vector (ViT, section 3.1)."""

    def __init__(self, channels: int, patch_size: int, width: int):
        super().__init__()
        self.channels, self.patch_size = channels, patch_size
        self.projection = nn.Linear(channels * patch_size**2, width)

    def forward(self, pixel_values: torch.Tensor, pixel_mask: torch.Tensor | None = None) -> torch.Tensor:
        """`(batch, channels, height, width)` to `(batch, rows, columns, width)`; padding is seen as it is."""
        check_pixels(pixel_values, self.channels, self.patch_size)
        patches = F.pixel_unshuffle(pixel_values, self.patch_size)  # (batch, channels * size², rows, columns)
        return self.projection(patches.movedim(1, -1))


class ResidualConvolution(nn.Module):
    """ReLU(x + BatchNorm(Convolution(x))), of the same size."""

    def __init__(self, width: int):
        super().__init__()
        self.convolution = nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return F.relu(states + self.norm(self.convolution(states)))


class ConvolutionalStem(nn.Module):
    """Patches that see across their borders: convolutions that halve the image, a residual one after each.

    It learns faster from few images than `PatchEmbedding` (after Xiao et al. 2021, "Early Convolutions Help
    Transformers See Better"). `patch_size`, a power of 2, is how many pixels apart the vectors are.
    """

    def __init__(self, channels: int, patch_size: int, width: int):
        super().__init__()
        self.channels, self.patch_size = channels, patch_size
        halvings = patch_size.bit_length() - 1
        widths = [max(width >> step, 1) for step in reversed(range(halvings))]  # such as 64, 128 for 128
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
        self.projection = nn.Linear(widths[-1] if widths else channels, width)

    def forward(self, pixel_values: torch.Tensor, pixel_mask: torch.Tensor | None = None) -> torch.Tensor:
        """`(batch, channels, height, width)` to `(batch, rows, columns, width)`.

        `pixel_mask` `(batch, height, width)` is false for padding, which then is to every convolution what
        lies beyond the border of an image.
        """
        check_pixels(pixel_values, self.channels, self.patch_size)
        states = pixel_values
        for layer in self.convolutions:
            states = layer(states)
            if pixel_mask is not None:
                pixel_mask = pixel_mask[:, ::2, ::2] if isinstance(layer, nn.Conv2d) else pixel_mask
                states = states * pixel_mask[:, None]
        return self.projection(states.movedim(1, -1))


def check_pixels(pixel_values: torch.Tensor, channels: int, patch_size: int):
    found, height, width = pixel_values.shape[-3:]
    if found != channels:
        raise ValueError(f"the images have {found} channels, but the model is for num_channels={channels}")
    if height % patch_size or width % patch_size:
        raise ValueError(
            f"an image of {height} x {width} pixels has no whole number of patches of {patch_size} x "
            f"{patch_size}: resize or pad it to multiples of {patch_size}"
        )


class SinusoidalGrid(nn.Module):
    """Adds 2-D sinusoids to `(batch, rows, columns, width)` vectors; holds no weights.

    A grid of another size than `size` x `size` covers the same picture: its places are scaled to it.
    """

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        rows, columns = (self._places(count, states.device) for count in states.shape[1:3])
        grid = torch.meshgrid(rows, columns, indexing="ij")
        return (states + sinusoids_2d(*grid, states.shape[-1])).to(states.dtype)

    def _places(self, count: int, device: torch.device) -> torch.Tensor:
        """Middles of `count` equal parts of the side, in patches of the grid of `size`."""
        return (torch.arange(count, device=device) + 0.5) * (self.size / count) - 0.5


class LearnedGrid(nn.Embedding):
    """Adds a learned vector for each place to `(batch, rows, columns, width)` vectors.

    For a grid of another size than `size` x `size` they are interpolated (ViT, section 3.2).
    """

    def __init__(self, size: int, width: int):
        super().__init__(size * size, width)
        self.size = size

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        places = torch.arange(self.num_embeddings, device=states.device)
        grid = super().forward(places).unflatten(0, (self.size, self.size))  # (size, size, width)
        if states.shape[1:3] != grid.shape[:2]:
            grid = grid.movedim(-1, 0)[None]  # (1, width, size, size)
            grid = F.interpolate(grid, size=states.shape[1:3], mode="bicubic", align_corners=False)
            grid = grid[0].movedim(0, -1)
        return states + grid
