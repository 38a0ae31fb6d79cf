"""The fast decoding step: one token of every live hypothesis through the prepared weights of a decoder.

- The keys and values of a sentence's hypotheses lie side by side. A mask says which of them belong to a
  hypothesis. When the search replaces a hypothesis by another one, the mask changes and no key moves.
- The keys and values of the encoder's output exist once per sentence. All its hypotheses attend to them.
- On a GPU all shapes are fixed, and a step is one CUDA graph.
"""

from typing import Any

import torch
from torch.nn import functional as F
from transformers.cache_utils import Cache

from .prepared import PreparedDecoder

FIRST_CAPACITY = 16  # steps for which a batch has room at first; it doubles


class Decoding:
    """The live hypotheses of a batch of sentences: their keys and values, and who may attend to which.

    Args:
        decoder: the prepared weights.
        sentences: the number of sentences.
        memory, memory_mask: the encoder's output `(sentences, source, width)` and its padding mask.
        wants_attention: keep `source_attention`, `(rows, source)`: the last layer's cross-attention of the
            last step, the mean over its heads.

    A batch has `sentences * width` rows; `width` hypotheses of a sentence are neighbours.
    """

    source_attention: torch.Tensor

    def __init__(
        self,
        decoder: PreparedDecoder,
        sentences: int,
        memory: torch.Tensor | None = None,
        memory_mask: torch.Tensor | None = None,
        wants_attention: bool = False,
    ):
        self.decoder, self.wants_attention = decoder, wants_attention
        self.sentences, self.width = sentences, 1
        self.length = 0  # of each hypothesis in the cache
        self.columns = 0  # of the cache that are in use
        self.keys: list[torch.Tensor] = []  # of each layer, (sentences, heads, capacity, head_dim)
        self.values: list[torch.Tensor] = []
        self.visible: torch.Tensor | None = None  # (sentences, 1, width, columns), added to scores; None: all
        self.skipped: torch.Tensor | None = None  # tokens without a position, such as padding, (sentences, 1)
        self.memory_keys: list[torch.Tensor] = []  # of each layer, (sentences, heads, source, head_dim)
        self.memory_values: list[torch.Tensor] = []
        self.memory_mask = additive(memory_mask, decoder.dtype)  # (sentences, 1, 1, source)
        if memory is not None:
            with torch.autocast(memory.device.type, enabled=False):
                self._set_memory(memory.to(decoder.dtype))

    def _set_memory(self, memory: torch.Tensor) -> None:
        """Computes the keys and values of all layers for the encoder's output."""
        decoder = self.decoder
        layers, heads = len(decoder.layers), decoder.heads
        projected = decoder.memory_product(memory.flatten(0, 1)).unflatten(0, memory.shape[:2])
        both = projected.split([layers * heads * decoder.head_dim, layers * heads * decoder.value_dim], -1)
        self.memory_keys, self.memory_values = (
            list(part.unflatten(-1, (layers, heads, -1)).permute(2, 0, 3, 1, 4).contiguous()) for part in both
        )

    def take_prompt(
        self,
        cache: Cache,
        width: int,
        mask: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
    ) -> None:
        """Takes over the keys and values of the prompts, of which the `width` rows of a sentence are equal.

        Args:
            mask, positions: the padding mask of the prompts and the positions of their tokens,
                `(rows, length)`. Other tokens of a prompt are at the positions 0, 1, ….
        """
        layers: list[Any] = cache.layers
        self.keys = [layer.keys[::width].to(self.decoder.dtype) for layer in layers]
        self.values = [layer.values[::width].to(self.decoder.dtype) for layer in layers]
        self.width, self.length = width, self.keys[0].shape[2]
        self.columns = self.length
        if positions is not None:
            self.skipped = self.length - 1 - positions[::width, -1:]
        visible = None if mask is None else additive(mask[::width], self.decoder.dtype)
        self.visible = None if visible is None else visible.expand(-1, -1, width, -1)

    def step(self, tokens: torch.Tensor, rows: torch.Tensor | None, width: int) -> torch.Tensor:
        """Appends a token to every hypothesis and returns the logits of the next one.

        Args:
            tokens: `(sentences * width, length)`, the hypotheses; only the last tokens are read.
            rows: for each token, the row of the batch before that it continues; None if none has moved.
            width: hypotheses of each sentence from now on.

        Returns:
            logits, float32 `(sentences * width, vocabulary)`.
        """
        self.decoder.require_positions(self.length + 1)
        with torch.autocast(tokens.device.type, enabled=False):  # the weights have its precision
            if rows is not None:
                self._follow(rows.view(-1, width))
            self.width = width
            self._make_room()
            self._show_new_columns()
            position = torch.full((1,), self.length, device=tokens.device)
            self.length, self.columns = self.length + 1, self.columns + width
            return self._logits(tokens[:, -1], position)

    def _logits(self, tokens: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        if self.skipped is not None:
            position = (position - self.skipped).expand(-1, self.width).flatten()
        states = self.decoder.embed(tokens, position)
        for index, layer in enumerate(self.decoder.layers):
            states = layer(states, self, index)
        return self.decoder.to_logits(self.decoder.norm(states)).float()

    def append(self, index: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Stores keys and values of a layer, `(rows, heads * head_dim)`; returns all of them until now."""
        everything = []
        for cache, new in ((self.keys[index], key), (self.values[index], value)):
            cache.narrow(2, self.columns - self.width, self.width).copy_(self._heads(new))
            everything.append(cache.narrow(2, 0, self.columns))
        return everything[0], everything[1]

    def _heads(self, projected: torch.Tensor) -> torch.Tensor:
        """`(sentences * width, heads * head_dim)` to `(sentences, heads, width, head_dim)`."""
        return projected.view(self.sentences, self.width, self.decoder.heads, -1).transpose(1, 2)

    def attend(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        mask: torch.Tensor | None,
        scaling: float,
    ) -> torch.Tensor:
        """Attention(Q, K, V) (equation 1); queries and the result are `(rows, heads * head_dim)`."""
        heads = F.scaled_dot_product_attention(self._heads(query), keys, values, mask, scale=scaling)
        return heads.transpose(1, 2).reshape(len(query), -1)

    def look_at_source(self, query: torch.Tensor, keys: torch.Tensor, scaling: float) -> None:
        """Computes the last layer's attention to the source."""
        scores = (self._heads(query) @ keys.transpose(-1, -2)).float() * scaling
        if self.memory_mask is not None:
            scores = scores + self.memory_mask
        self.source_attention = scores.softmax(-1).mean(1).flatten(0, 1)  # (rows, source)

    def _follow(self, rows: torch.Tensor) -> None:
        """Continues these rows of the batch, `(sentences that go on, hypotheses of each)`."""
        if len(rows) < self.sentences:
            self._keep_sentences(rows[:, 0] // self.width)
        if self.visible is not None:
            parents = (rows % self.width)[:, None, :, None]  # (sentences, 1, hypotheses, 1)
            self.visible = self.visible.gather(2, parents.expand(-1, -1, -1, self.visible.shape[-1]))

    def _keep_sentences(self, kept: torch.Tensor) -> None:
        self.sentences = len(kept)
        for caches in (self.keys, self.values, self.memory_keys, self.memory_values):
            caches[:] = [cache.index_select(0, kept) for cache in caches]
        self.visible, self.skipped, self.memory_mask = (
            None if mask is None else mask.index_select(0, kept)
            for mask in (self.visible, self.skipped, self.memory_mask)
        )

    def _make_room(self) -> None:
        """Makes room for one more token of every hypothesis."""
        needed = self.columns + self.width
        capacity = self.keys[0].shape[2] if self.keys else 0
        if needed > capacity:
            self._allocate(max(2 * capacity, FIRST_CAPACITY * self.width, needed))

    def _allocate(self, capacity: int) -> None:
        """Gives the cache room for this number of columns."""
        decoder = self.decoder
        for caches, width in ((self.keys, decoder.head_dim), (self.values, decoder.value_dim)):
            shape = (self.sentences, decoder.heads, capacity, width)
            larger = [torch.zeros(shape, dtype=decoder.dtype, device=decoder.device) for _ in decoder.layers]
            for new, cache in zip(larger, caches):  # there is no cache before the first step
                new.narrow(2, 0, self.columns).copy_(cache.narrow(2, 0, self.columns))
            caches[:] = larger

    def _show_new_columns(self) -> None:
        """Shows each hypothesis the column of its own next token, but not those of its neighbours."""
        if self.width == 1 and self.visible is None:
            return
        if self.visible is None:
            self.visible = self._zeros(self.columns)
        hidden = torch.finfo(self.visible.dtype).min
        own = torch.full(
            (self.width, self.width), hidden, dtype=self.visible.dtype, device=self.visible.device
        )
        own = own.fill_diagonal_(0).expand(self.sentences, 1, -1, -1)
        self.visible = torch.cat([self.visible, own], dim=-1)

    def _zeros(self, columns: int) -> torch.Tensor:
        shape = (self.sentences, 1, self.width, columns)
        return torch.zeros(shape, dtype=self.decoder.dtype, device=self.decoder.device)


def additive(mask: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    """`(sentences, length)` to 0 for real tokens and very negative for padding, `(sentences, 1, 1, length)`.

    None if there is no padding.
    """
    if mask is None or bool(mask.all()):
        return None
    hidden = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return hidden.masked_fill_(mask == 0, torch.finfo(dtype).min)[:, None, None]
