"""The fast decoding step: one token of every live hypothesis through the prepared weights of a decoder.

- The keys and values of a sentence's hypotheses lie side by side. A mask says which of them belong to a
  hypothesis. When the search replaces a hypothesis by another one, the mask changes and no key moves.
- The keys and values of the encoder's output exist once per sentence. All its hypotheses attend to them.
- On a GPU all shapes are fixed, and a step is one CUDA graph.
"""

from dataclasses import dataclass
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

    def finish(self) -> None:
        """Does nothing; see `StaticDecoding.finish`."""

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


@dataclass
class Room:
    """The cache of a `StaticDecoding` of one capacity, and the graph of a step in it."""

    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    visible: torch.Tensor
    positions: torch.Tensor  # the table that the graph reads
    graph: Any = None
    outputs: tuple[torch.Tensor, torch.Tensor | None] | None = None  # that the graph writes


class StaticDecoding(Decoding):
    """`Decoding` whose tensors keep their place and shape, so that a GPU replays each step as one graph.

    A GPU computes a step faster than Python launches its kernels; a CUDA graph launches all of them at once.
    A sentence has `width` hypotheses from the first step to the last, and attention reads the whole cache.
    Sizes are rounded up, so that few graphs serve many batches, and `PreparedDecoder.static` keeps them.
    """

    ROWS, COLUMNS = 8, 16  # sentences and source tokens are rounded up to multiples of these
    MOST = 8  # sizes that are kept

    @classmethod
    def begin(
        cls,
        decoder: PreparedDecoder,
        sentences: int,
        memory: torch.Tensor | None = None,
        memory_mask: torch.Tensor | None = None,
        wants_attention: bool = False,
        width: int = 1,
    ) -> "StaticDecoding":
        """The steps for a batch of this size; see `Decoding`. `finish` makes them free for the next batch."""
        source = 0 if memory is None else round_up(memory.shape[1], cls.COLUMNS)
        sizes = (round_up(sentences, cls.ROWS), width, source, wants_attention)
        # Tensors of inference mode cannot change outside it.
        key = (*sizes, torch.is_inference_mode_enabled())
        decoding = decoder.static.pop(key, None) or cls(decoder, *sizes)
        decoding.key = key
        decoding._load(sentences, memory, memory_mask)
        return decoding

    def __init__(
        self, decoder: PreparedDecoder, sentences: int, width: int, source: int, wants_attention: bool
    ):
        super().__init__(decoder, sentences, wants_attention=wants_attention)
        self.width = width
        self.key: tuple = ()
        self.live_rows = self.real_source = 0  # of the batch
        numbers = {"dtype": torch.long, "device": decoder.device}
        self.tokens = torch.zeros(sentences * width, **numbers)
        self.parents = torch.zeros(sentences, width, **numbers)
        self.position = torch.zeros(1, **numbers)
        self.new_columns = torch.zeros(width, **numbers)  # those of the step, one for each hypothesis
        self.skipped: torch.Tensor = torch.zeros(sentences, 1, **numbers)
        hidden = torch.finfo(decoder.dtype).min
        self.own = self._zeros(width) + hidden * (1 - torch.eye(width, device=decoder.device)).to(
            decoder.dtype
        )
        if source:
            size = (sentences, decoder.heads, source)
            for caches, part in (
                (self.memory_keys, decoder.head_dim),
                (self.memory_values, decoder.value_dim),
            ):
                caches += [self.own.new_zeros((*size, part)) for _ in decoder.layers]
            self.memory_mask: torch.Tensor = self.own.new_zeros(sentences, 1, 1, source)
        self.rooms: dict[int, Room] = {}
        self.capacity = 0

    def _load(self, sentences: int, memory: torch.Tensor | None, mask: torch.Tensor | None) -> None:
        """Starts with these sentences; rows up to the rounded size are padding."""
        self.length = self.columns = 0
        self.live_rows = sentences * self.width
        self.parents.copy_(torch.arange(self.width, device=self.parents.device).expand_as(self.parents))
        self.skipped.zero_()
        self._enter(FIRST_CAPACITY * self.width)
        if memory is None:
            return
        begun = Decoding(self.decoder, sentences, memory)
        length = self.real_source = memory.shape[1]
        for own, given in ((self.memory_keys, begun.memory_keys), (self.memory_values, begun.memory_values)):
            for buffer, values in zip(own, given):
                buffer.zero_()  # a NaN of an earlier batch would pass through the mask
                buffer[:sentences, :, :length] = values
        self.memory_mask.fill_(torch.finfo(self.memory_mask.dtype).min)
        self.memory_mask[:sentences, ..., :length] = 0
        if mask is not None:
            shown = self.memory_mask[:sentences, 0, 0, :length]
            shown.masked_fill_(mask == 0, torch.finfo(shown.dtype).min)

    def _enter(self, capacity: int) -> None:
        """Moves to a cache of this capacity, with the columns that are in use."""
        if capacity not in self.rooms:
            self._add_room(capacity)
        before, room = self.rooms.get(self.capacity), self.rooms[capacity]
        room.visible.fill_(torch.finfo(room.visible.dtype).min)
        for buffer in (*room.keys, *room.values):
            buffer.zero_()  # as in _load
        if before is not None and self.columns:
            for old, new in zip((*before.keys, *before.values), (*room.keys, *room.values)):
                new[:, :, : self.columns] = old[:, :, : self.columns]
            room.visible[..., : self.columns] = before.visible[..., : self.columns]
        self.capacity, self.keys, self.values, self.visible = capacity, room.keys, room.values, room.visible

    def _add_room(self, capacity: int) -> None:
        decoder = self.decoder
        if not decoder.learned:
            decoder.require_positions(capacity)
        keys, values = (
            [self.own.new_zeros((self.sentences, decoder.heads, capacity, width)) for _ in decoder.layers]
            for width in (decoder.head_dim, decoder.value_dim)
        )
        self.rooms[capacity] = Room(keys, values, self._zeros(capacity), decoder.positions)

    def take_prompt(self, cache: Cache, width: int, mask: Any = None, positions: Any = None) -> None:
        prompt = Decoding(self.decoder, self.live_rows // width)
        prompt.take_prompt(cache, width, mask, positions)
        self.length = prompt.length
        while prompt.columns > self.capacity:
            self._enter(2 * self.capacity)
        self.columns = prompt.columns
        for own, given in zip((*self.keys, *self.values), (*prompt.keys, *prompt.values)):
            own[: prompt.sentences, :, : self.columns] = given
        assert self.visible is not None, "a room has a mask"
        self.visible[..., : self.columns] = 0
        if prompt.visible is not None:
            self.visible[: prompt.sentences, ..., : self.columns] = prompt.visible
        if prompt.skipped is not None:
            self.skipped[: prompt.sentences] = prompt.skipped

    def step(self, tokens: torch.Tensor, rows: torch.Tensor | None, width: int) -> torch.Tensor:
        """As that of `Decoding`, but no sentence may leave the batch."""
        self.decoder.require_positions(self.length + 1)
        if self.columns + width > self.capacity:
            self._enter(2 * self.capacity)
        self.tokens[: self.live_rows] = tokens[:, -1]
        if rows is not None:
            self.parents[: self.live_rows // width] = rows.view(-1, width) % width
        self.position.fill_(self.length)
        torch.arange(self.columns, self.columns + width, out=self.new_columns)
        self.length, self.columns = self.length + 1, self.columns + width
        room = self.rooms[self.capacity]
        with torch.autocast(tokens.device.type, enabled=False):
            if self.decoder.device.type != "cuda":
                room.outputs = self._run()
            else:
                if room.graph is None:
                    self._capture(room)
                room.graph.replay()
        assert room.outputs is not None, "a step has outputs"
        logits, attention = room.outputs
        if attention is not None:
            self.source_attention = attention[: self.live_rows, : self.real_source]
        return logits[: self.live_rows]

    def _run(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The logits and source attention of one step, in which nothing depends on a number of Python's."""
        assert self.visible is not None, "a room has a mask"
        parents = self.parents[:, None, :, None].expand(-1, -1, -1, self.capacity)
        self.visible.copy_(self.visible.gather(2, parents).index_copy_(3, self.new_columns, self.own))
        logits = self._logits(self.tokens, self.position)
        return logits, self.source_attention if self.wants_attention else None

    def append(self, index: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        for cache, new in ((self.keys[index], key), (self.values[index], value)):
            cache.index_copy_(2, self.new_columns, self._heads(new))
        return self.keys[index], self.values[index]

    def _capture(self, room: Room) -> None:
        """Records the graph of a step; the runs that CUDA needs before do not count."""
        visible = room.visible.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                self._run()
        torch.cuda.current_stream().wait_stream(stream)
        room.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(room.graph):
            room.outputs = self._run()
        room.visible.copy_(visible)

    def finish(self) -> None:
        """Lets the next batch of this size have the tensors and graphs."""
        static = self.decoder.static
        static[self.key] = self
        if len(static) > self.MOST:
            del static[next(iter(static))]  # the one that was used longest ago


def round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def is_static(device: torch.device) -> bool:
    """Whether steps on this device are `StaticDecoding`."""
    return device.type == "cuda"


def additive(mask: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    """`(sentences, length)` to 0 for real tokens and very negative for padding, `(sentences, 1, 1, length)`.

    None if there is no padding.
    """
    if mask is None or bool(mask.all()):
        return None
    hidden = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return hidden.masked_fill_(mask == 0, torch.finfo(dtype).min)[:, None, None]
