"""Padding: which tokens of a batch are real, and how work on single tokens skips the others."""

from inspect import signature

import torch
from torch.nn import functional as F
from torch.nn.attention.varlen import varlen_attn
from transformers import PreTrainedModel, modeling_utils

from .losses import IGNORE_INDEX


class Packing:
    """The real tokens of a padded batch, side by side without padding.

    Attention needs rows of equal length. All other sublayers work on single tokens and can run on packed
    vectors, where padding costs nothing. Without a mask `pack` and `unpack` return their input.

    Args:
        mask: `(batch, length)`, nonzero where a token is real.
        padded_output: a stack that packs with this returns padded vectors.
        hides_padding_only: every real token may attend to all real tokens of its row, or to all earlier ones.
            Attention then stays packed on a GPU that can do so.
    """

    def __init__(
        self,
        mask: torch.Tensor | None = None,
        padded_output: bool = False,
        hides_padding_only: bool = False,
    ):
        self.rows: torch.Tensor | None = None
        self.starts: torch.Tensor | None = None
        self.padded_output = padded_output
        if mask is not None:
            self.shape = mask.shape
            self.rows = mask.flatten().nonzero().squeeze(1)  # (tokens,)
            if hides_padding_only and attends_to_packed_tokens(mask.device):
                lengths = (mask != 0).sum(-1)
                self.starts = F.pad(lengths.cumsum(0), (1, 0)).int()  # (batch + 1,)

    def pack(self, padded: torch.Tensor) -> torch.Tensor:
        """`(batch, length, width)` to `(1, tokens, width)`."""
        if self.rows is None:
            return padded
        return padded.flatten(0, 1).index_select(0, self.rows)[None]

    def unpack(self, packed: torch.Tensor) -> torch.Tensor:
        """`(1, tokens, width)` to `(batch, length, width)`, zero where there is padding."""
        if self.rows is None:
            return packed
        padded = packed.new_zeros(self.shape.numel(), packed.shape[-1])
        return padded.index_copy(0, self.rows, packed[0]).unflatten(0, self.shape)

    def output(self, packed: torch.Tensor) -> torch.Tensor:
        """The vectors that a stack returns."""
        return self.unpack(packed) if self.padded_output else packed


NO_PACKING = Packing()


def attends_to_packed_tokens(device: torch.device) -> bool:
    """Whether the device has flash attention for rows of different lengths side by side."""
    if device.type != "cuda" or "window_size" not in signature(varlen_attn).parameters:
        return False  # without a window, torch hides later tokens in another way
    return torch.cuda.get_device_capability(device) >= (8, 0)


def packing_for_norm(
    packing: Packing, stack: PreTrainedModel, attention_mask: torch.Tensor | None
) -> Packing:
    """The packing; for a stack that trains batch normalisation without one, a packing of its own.

    Batch normalisation computes its statistics from all vectors it gets, so that padding would change them.
    """
    if packing.rows is None and stack.training and stack.config.norm_type == "batch":
        return Packing(attention_mask, padded_output=True)
    return packing


def up_to_last_label(labels: torch.Tensor) -> torch.Tensor:
    """1 up to the last label of each row and 0 after it, `(batch, length)`: the rest is padding."""
    return (labels != IGNORE_INDEX).int().flip(1).cummax(1).values.flip(1)


def kept_positions(states: torch.Tensor, logits_to_keep: int | torch.Tensor) -> torch.Tensor:
    """The states that get logits: all for 0, the last for an integer, or those at the indices of a tensor."""
    slice_logits = getattr(modeling_utils, "slice_logits_to_keep", None)  # not in transformers 5.17
    if slice_logits is not None:
        return slice_logits(states, logits_to_keep)
    return states[:, slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep]
