"""The fast decoding step: one token of every live hypothesis through the decoder, with prepared weights.

It computes what `TextDecoder` and the projection to the vocabulary compute, in the same order (figure 1,
right), and differs in what it keeps:

- Weights are packed for products with few rows, or rounded to bf16 or int8. Queries, keys and values of
  self-attention are one product, and so are the keys and values of all layers for the encoder's output.
- The keys and values of a sentence's hypotheses lie side by side. A mask says which of them belong to a
  hypothesis. When the search replaces a hypothesis by another one, the mask changes and no key moves.
- The keys and values of the encoder's output exist once per sentence. All its hypotheses attend to them.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn.functional import embedding, scaled_dot_product_attention
from transformers.cache_utils import Cache

from .embeddings import LearnedPositions, SinusoidalPositions, TokenEmbedding, sinusoids
from .layers import AddNorm, Attention, BatchNorm, DecoderLayer, Dropout, FeedForward
from .products import FORMATS, Linear, Product, fastest_precision, prepare

PRECISIONS = (*FORMATS, "int8", "auto")
FIRST_CAPACITY = 16  # steps for which a batch has room at first; it doubles


class PreparedDecoder:
    """The weights of a decoder and its projection to the vocabulary, as `Decoding` reads them.

    Args:
        model: has `model.decoder` and `lm_head`.
        precision: of products, see `prepare`; "auto" measures which is the fastest here.
    """

    def __init__(self, model: Any, precision: str):
        config, decoder = model.config, model.model.decoder
        layers: list[DecoderLayer] = list(decoder.layers)
        if precision == "auto":
            linears = [*(part for part in layers[0].modules() if isinstance(part, nn.Linear)), model.lm_head]
            precision = fastest_precision({(part.out_features, part.in_features) for part in linears})
        self.precision = precision
        self.dtype = FORMATS.get(precision, torch.float32)  # of the vectors between products
        self.width, self.heads = config.hidden_size, config.num_attention_heads
        self.head_dim, self.value_dim = config.head_dim, config.value_dim
        self.embeddings = decoder.embed_tokens.weight.detach()
        self.add_positions = decoder.embed_positions
        self.sinusoids = self._sinusoids(256)
        self.layers = [PreparedLayer(layer, self) for layer in layers]
        self.norm = self.prepared_norm(decoder.norm)
        self.to_logits = self.product([model.lm_head])
        if config.is_encoder_decoder:
            attentions = [layer.cross_attn for layer in layers]
            keys, values = [each.k_proj for each in attentions], [each.v_proj for each in attentions]
            self.memory_product = self.product([*keys, *values])

    def product(self, linears: list[nn.Linear]) -> Product:
        """One product for linear layers of the same input; their outputs lie side by side."""
        weights, biases = [linear.weight for linear in linears], [linear.bias for linear in linears]
        weight = torch.cat(weights) if len(linears) > 1 else weights[0]
        bias = None if biases[0] is None else torch.cat(biases).detach()
        return prepare(weight.detach(), bias, self.precision)

    def prepared_norm(self, norm: Any) -> Callable[[torch.Tensor], torch.Tensor]:
        if isinstance(norm, nn.Identity):
            return norm
        weight, bias = norm.weight.detach(), norm.bias.detach()
        if isinstance(norm, BatchNorm):  # in evaluation it is an affine map
            weight = weight / (norm.running_var + norm.eps).sqrt()
            bias = (bias - norm.running_mean * weight).to(self.dtype)
            weight = weight.to(self.dtype)
            return lambda states: torch.addcmul(bias, states, weight)
        shape, eps, weight, bias = list(weight.shape), norm.eps, weight.to(self.dtype), bias.to(self.dtype)
        return lambda states: torch.layer_norm(states, shape, weight, bias, eps)

    def embed(self, tokens: torch.Tensor, positions: torch.Tensor, end: int) -> torch.Tensor:
        """Ids `(rows,)` at positions `(1,)` or `(rows,)`, all below `end`, to vectors `(rows, width)`."""
        vectors = embedding(tokens, self.embeddings) * math.sqrt(self.width)
        if isinstance(self.add_positions, LearnedPositions):
            return self.add_positions(vectors[:, None], positions[:, None], end)[:, 0].to(self.dtype)
        if end > len(self.sinusoids):
            self.sinusoids = self._sinusoids(2 * end)
        return (vectors + embedding(positions, self.sinusoids)).to(self.dtype)

    def _sinusoids(self, count: int) -> torch.Tensor:
        return sinusoids(torch.arange(count, device=self.embeddings.device), self.width)


class PreparedAddNorm:
    """`AddNorm` in evaluation; it may write to what the sublayer returns."""

    def __init__(self, module: AddNorm, decoder: PreparedDecoder):
        self.norm, self.pre_norm = decoder.prepared_norm(module.norm), module.pre_norm

    def __call__(
        self, states: torch.Tensor, sublayer: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        if self.pre_norm:
            return sublayer(self.norm(states)).add_(states)
        return self.norm(sublayer(states).add_(states))


class PreparedLayer:
    """`DecoderLayer` for one token of each row."""

    def __init__(self, layer: DecoderLayer, decoder: PreparedDecoder):
        own = layer.self_attn
        self.scaling = own.scaling
        self.widths = [linear.out_features for linear in (own.q_proj, own.k_proj, own.v_proj)]
        self.qkv_proj = decoder.product([own.q_proj, own.k_proj, own.v_proj])
        self.o_proj = decoder.product([own.o_proj])
        self.self_attn_add_norm = PreparedAddNorm(layer.self_attn_add_norm, decoder)
        self.has_cross_attention = layer.has_cross_attention
        if self.has_cross_attention:
            self.cross_q_proj = decoder.product([layer.cross_attn.q_proj])
            self.cross_o_proj = decoder.product([layer.cross_attn.o_proj])
            self.cross_attn_add_norm = PreparedAddNorm(layer.cross_attn_add_norm, decoder)
        self.fc1, self.fc2 = (
            decoder.product([layer.feed_forward.fc1]),
            decoder.product([layer.feed_forward.fc2]),
        )
        self.activation = layer.feed_forward.activation
        self.feed_forward_add_norm = PreparedAddNorm(layer.feed_forward_add_norm, decoder)

    def __call__(self, states: torch.Tensor, batch: "Decoding", index: int) -> torch.Tensor:
        def attend_to_self(x: torch.Tensor) -> torch.Tensor:
            query, key, value = self.qkv_proj(x).split(self.widths, -1)
            keys, values = batch.append(index, key, value)
            return self.o_proj(batch.attend(query, keys, values, batch.visible, self.scaling))

        def attend_to_memory(x: torch.Tensor) -> torch.Tensor:
            keys, values = batch.memory_keys[index], batch.memory_values[index]
            query = self.cross_q_proj(x)
            if batch.wants_attention and index + 1 == len(batch.decoder.layers):
                batch.look_at_source(query, keys, self.scaling)
            return self.cross_o_proj(batch.attend(query, keys, values, batch.memory_mask, self.scaling))

        def feed_forward(x: torch.Tensor) -> torch.Tensor:
            return self.fc2(self.activation(self.fc1(x)))

        states = self.self_attn_add_norm(states, attend_to_self)
        if self.has_cross_attention:
            states = self.cross_attn_add_norm(states, attend_to_memory)
        return self.feed_forward_add_norm(states, feed_forward)


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
        self.skipped: torch.Tensor | None = (
            None  # tokens that have no position, such as padding, (sentences, 1)
        )
        self.memory_keys, self.memory_values = [], []  # of each layer, (sentences, heads, source, head_dim)
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
        with torch.autocast(tokens.device.type, enabled=False):  # the weights have its precision
            return self._step(tokens[:, -1], rows, width)

    def _step(self, tokens: torch.Tensor, rows: torch.Tensor | None, width: int) -> torch.Tensor:
        if rows is not None:
            self._follow(rows.view(-1, width))
        self.width = width
        self._make_room()
        self._show_new_columns()
        positions = torch.full((1,), self.length, device=tokens.device)  # one for all rows
        if self.skipped is not None:
            positions = (positions - self.skipped).expand(-1, width).flatten()
        states = self.decoder.embed(tokens, positions, self.length + 1)
        self.length, self.columns = self.length + 1, self.columns + width
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
        heads = scaled_dot_product_attention(self._heads(query), keys, values, mask, scale=scaling)
        return heads.transpose(1, 2).reshape(len(query), -1)

    def look_at_source(self, query: torch.Tensor, keys: torch.Tensor, scaling: float) -> None:
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
            self.visible = self.visible.gather(2, parents.expand(-1, -1, -1, self.columns))

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
        decoder, needed = self.decoder, self.columns + self.width
        capacity = self.keys[0].shape[2] if self.keys else 0
        if needed <= capacity:
            return
        capacity = max(2 * capacity, FIRST_CAPACITY * self.width, needed)
        for caches, width in ((self.keys, decoder.head_dim), (self.values, decoder.value_dim)):
            shape, device = (self.sentences, decoder.heads, capacity, width), decoder.embeddings.device
            larger = [torch.empty(shape, dtype=decoder.dtype, device=device) for _ in decoder.layers]
            for new, cache in zip(
                larger, caches
            ):  # both lists have one entry per layer, or there is no cache
                new.narrow(2, 0, self.columns).copy_(cache.narrow(2, 0, self.columns))
            caches[:] = larger

    def _show_new_columns(self) -> None:
        """Shows each hypothesis the column of its own next token, but not those of its neighbours."""
        if self.width == 1 and self.visible is None:
            return
        mask = self.visible
        if mask is None:
            mask = torch.zeros(
                (self.sentences, 1, self.width, self.columns),
                dtype=self.decoder.dtype,
                device=self.decoder.embeddings.device,
            )
        own = torch.full(
            (self.width, self.width), torch.finfo(mask.dtype).min, device=mask.device
        ).fill_diagonal_(0)
        self.visible = torch.cat([mask, own.to(mask.dtype).expand(self.sentences, 1, -1, -1)], dim=-1)


def additive(mask: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    """`(sentences, length)` to 0 for real tokens and very negative for padding, `(sentences, 1, 1, length)`.

    None if there is no padding.
    """
    if mask is None or bool(mask.all()):
        return None
    hidden = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return hidden.masked_fill_(mask == 0, torch.finfo(dtype).min)[:, None, None]


class Prepared(NamedTuple):
    decoder: PreparedDecoder
    asked: str | None  # the precision that `prepare_for_decoding` got
    weights: list[tuple[int, int]]  # the place and version of each
    columns: list[torch.Tensor]  # the first column of each, where it is in memory
    first_columns: torch.Tensor  # a copy


# Beside the models and not in them: nothing of it is saved, copied or moved with a model.
PREPARED: WeakKeyDictionary[nn.Module, Prepared] = WeakKeyDictionary()


def prepared_decoder(model: Any, *precision: str | None) -> PreparedDecoder:
    """The model's prepared weights, which are prepared again if the model's own have changed.

    Assigning to `weight.data` leaves no trace in the version of a weight; its first column shows it.

    Args:
        precision: one of `prepare`, "auto", or None for that of the weights (or of autocast, if it is on). Without
            it, the one before holds.
    """
    known = PREPARED.get(model)
    asked = precision[0] if precision else known.asked if known else None
    tensors = tensors_of(model)
    weights = [(tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version) for tensor in tensors]
    device, dtype = model.lm_head.weight.device.type, model.lm_head.weight.dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    wanted = asked or next(name for name, format in FORMATS.items() if format == dtype)
    if (
        known
        and known.asked == asked
        and wanted in ("auto", known.decoder.precision)
        and known.weights == weights
    ):
        if torch.equal(torch.cat(known.columns), known.first_columns):
            return known.decoder
    columns = [tensor.detach().view(len(tensor), -1)[:, 0] for tensor in tensors if tensor.ndim]
    known = Prepared(PreparedDecoder(model, wanted), asked, weights, columns, torch.cat(columns))
    PREPARED[model] = known
    return known.decoder


def tensors_of(model: Any) -> list[torch.Tensor]:
    """The parameters and buffers of the decoder and of the projection to the vocabulary."""
    modules = (*model.model.decoder.modules(), model.lm_head)
    tensors = (
        part for module in modules for part in (*module._parameters.values(), *module._buffers.values())
    )
    return [tensor for tensor in tensors if tensor is not None]


ACTIVATIONS = ("transformers.activations", "torch.nn.modules.activation")
PREPARABLE = {
    *(nn.Linear, Linear, nn.LayerNorm, BatchNorm, nn.Identity, Dropout, nn.ModuleList),
    *(TokenEmbedding, SinusoidalPositions, LearnedPositions),
    *(Attention, FeedForward, AddNorm, DecoderLayer),
}


def why_not_prepared(model: Any) -> str | None:
    """Why only the model's own forward pass computes what this model computes; None if `Decoding` does too."""
    if model.training:
        return "the model is in training"
    head, wholes = model.lm_head, (model, model.model, model.model.decoder)
    for module in (*wholes, *model.model.decoder.modules(), head):
        kind = type(module)
        if module in wholes:
            if kind.forward.__module__ != f"{__package__}.modeling_vanilla_transformer":
                return f"{kind.__name__} has a forward of its own"
        elif kind not in PREPARABLE and not kind.__module__.startswith(ACTIVATIONS):
            return f"it contains a {kind.__name__}"
        hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        if "forward" in vars(module) or not all(is_of_transformers(hook) for hook in hooks):
            return f"its {kind.__name__} has a hook"
    if head.weight.dtype not in FORMATS.values() or head.weight.device.type == "meta":
        return f"its weights are {head.weight.dtype} on the device {head.weight.device}"
    return None


def is_of_transformers(hook: Any) -> bool:
    """Whether the hook only records outputs for transformers; it stays after the call that asked for them."""
    return getattr(hook, "__module__", "") == "transformers.utils.output_capturing"
