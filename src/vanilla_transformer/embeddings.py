"""Words and positions as vectors (sections 3.4 and 3.5)."""

import math

import torch
from torch import nn


def sinusoids(positions: torch.Tensor, width: int) -> torch.Tensor:
    """The paper's positional encoding (section 3.5), float32 `(*positions.shape, width)`.

    PE(pos, 2i) = sin(pos / 10000^(2i / width)) and PE(pos, 2i+1) = cos(pos / 10000^(2i / width)).
    Angles are taken in float64: in float32 they are off by 1e-4 at position 5,000.
    """
    exact = torch.float32 if positions.device.type == "mps" else torch.float64  # Apple GPUs have no float64
    even_columns = torch.arange(0, width, 2, dtype=exact, device=positions.device)
    angles = positions[..., None].to(exact) / 10000 ** (even_columns / width)  # (..., width / 2)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2).float()


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
