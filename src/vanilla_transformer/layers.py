"""One layer of either stack: attention, feed-forward network, and the residual with its norm (section 3)."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn
from torch.nn.attention.varlen import varlen_attn
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, EncoderDecoderCache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_vanilla_transformer import LayersConfig
from .packing import NO_PACKING, Packing
from .products import Linear

SHORT = 128  # tokens in a row
HALF_PRECISION = (torch.bfloat16, torch.float16)  # of the kernels for packed tokens


def scaled_dot_product_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention(Q, K, V) = softmax(Q Kᵀ / √d_k) V (section 3.2.1, equation 1), the "eager" implementation.

    Args:
        query, key: `(batch, heads, length, head_dim)`; value: `(batch, heads, length, value_dim)`.
        attention_mask: true where a query may attend; or added to Q Kᵀ / √d_k, and very negative elsewhere.
            Without it, a causal module hides later positions.

    Returns:
        the output `(batch, length, heads, value_dim)`, and the weights `(batch, heads, queries, keys)`.
    """
    scores = query @ key.transpose(-1, -2) * scaling
    if attention_mask is None and module.is_causal:
        attention_mask = scores.new_ones(scores.shape[-2:], dtype=torch.bool).tril()
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    elif attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, dropout, module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class Attention(nn.Module):
    """MultiHead(Q, K, V) = Concat(head_1, …, head_h) W^O (section 3.2.2).

    Queries are projections of the states; keys and values are projections of the memory, by default the
    states themselves. `is_causal` hides later positions when there is no mask (section 3.2.3).
    """

    def __init__(self, config: LayersConfig, is_causal: bool = False, layer_idx: int = 0):
        super().__init__()
        self.config = config
        self.is_causal = is_causal
        self.layer_idx = layer_idx
        self.head_dim = cast("int", config.head_dim)  # the configuration has set both
        self.value_dim = cast("int", config.value_dim)
        self.scaling = self.head_dim**-0.5
        self.q_proj = Linear(config.hidden_size, config.num_attention_heads * self.head_dim)
        self.k_proj = Linear(config.hidden_size, config.num_attention_heads * self.head_dim)
        self.v_proj = Linear(config.hidden_size, config.num_attention_heads * self.value_dim)
        self.o_proj = Linear(config.num_attention_heads * self.value_dim, config.hidden_size)

    def forward(
        self,
        states: torch.Tensor,
        memory: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        packing: Packing = NO_PACKING,
        memory_packing: Packing = NO_PACKING,
        position_vectors: torch.Tensor | None = None,
        memory_position_vectors: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Args:
            states, memory: `(batch, length, width)`; with a packing, `(1, tokens, width)`.
            attention_mask: as the attention implementation takes it.
            position_vectors, memory_position_vectors: of the shapes of `states` and `memory`; added here, to
                queries and keys but not to values, when they are not part of the states.

        Returns:
            vectors of the shape of `states`, and the weights if the implementation computes them.
        """
        queries = self.q_proj(add_positions(states, position_vectors))
        if memory is None:
            memory, memory_packing, memory_position_vectors = states, packing, position_vectors
            past_key_values = own_cache(past_key_values)
        if past_key_values is None and self._stays_packed(queries, packing, memory_packing, kwargs):
            keys = self.k_proj(add_positions(memory, memory_position_vectors))
            values = self.v_proj(memory)
            output = self._attend_packed(queries, keys, values, packing, memory_packing)
            return self.o_proj(output), None
        query = self._heads(queries, self.head_dim, packing)
        key, value = self._keys_and_values(memory, past_key_values, memory_packing, memory_position_vectors)
        attend: Callable = scaled_dot_product_attention  # the one that returns weights
        if not (kwargs.get("output_attentions") or self._scores_are_faster(query, key)):
            attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, attend)
        heads, weights = attend(self, query, key, value, attention_mask, scaling=self.scaling, **kwargs)
        output = packing.pack(heads.flatten(2))  # (batch, length, heads * value_dim), or packed
        return self.o_proj(output), weights

    def _keys_and_values(
        self,
        memory: torch.Tensor,
        cache: Cache | None,
        packing: Packing,
        position_vectors: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if isinstance(cache, EncoderDecoderCache):  # the encoder's output never changes: computed once
            if cache.is_updated.get(self.layer_idx, False):
                layer: Any = cache.cross_attention_cache.layers[self.layer_idx]
                return layer.keys, layer.values
            cache.is_updated[self.layer_idx] = True
            cache = cache.cross_attention_cache
        keys = self.k_proj(add_positions(memory, position_vectors))
        key = self._heads(keys, self.head_dim, packing)
        value = self._heads(self.v_proj(memory), self.value_dim, packing)
        return (key, value) if cache is None else cache.update(key, value, self.layer_idx)

    def _stays_packed(
        self, queries: torch.Tensor, packing: Packing, memory_packing: Packing, kwargs: dict[str, Any]
    ) -> bool:
        """Whether a kernel for rows of different lengths attends to the packed tokens as they are."""
        return (
            packing.starts is not None
            and memory_packing.starts is not None
            and queries.dtype in HALF_PRECISION
            and self.head_dim == self.value_dim
            and self.head_dim % 8 == 0
            and self.head_dim <= 256
            and self.config._attn_implementation == "sdpa"
            and not kwargs.get("output_attentions")
        )

    def _attend_packed(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        packing: Packing,
        memory_packing: Packing,
    ) -> torch.Tensor:
        """Attention within each row of packed tokens; all tensors are `(1, tokens, heads * head_dim)`."""
        query, key, value = (
            packed[0].unflatten(-1, (-1, self.head_dim)) for packed in (queries, keys, values)
        )
        starts = cast("torch.Tensor", packing.starts), cast("torch.Tensor", memory_packing.starts)
        longest = packing.shape[1], memory_packing.shape[1]
        window = (-1, 0 if self.is_causal else -1)  # keys before and after a query; -1 is all
        heads = varlen_attn(query, key, value, *starts, *longest, scale=self.scaling, window_size=window)
        return cast("torch.Tensor", heads).flatten(1)[None]

    def _scores_are_faster(self, query: torch.Tensor, key: torch.Tensor) -> bool:
        """Whether sdpa is slow: its backward pass on a CPU in bfloat16, unless rows are long."""
        return (
            self.training
            and query.device.type == "cpu"
            and query.dtype == torch.bfloat16
            and query.shape[-2] * key.shape[-2] <= SHORT**2
            and self.config._attn_implementation == "sdpa"
            and not torch.compiler.is_compiling()
        )

    @staticmethod
    def _heads(projected: torch.Tensor, head_dim: int, packing: Packing) -> torch.Tensor:
        heads = packing.unpack(projected).unflatten(-1, (-1, head_dim))
        return heads.transpose(1, 2)  # (batch, heads, length, head_dim)


def add_positions(states: torch.Tensor, position_vectors: torch.Tensor | None) -> torch.Tensor:
    return states if position_vectors is None else states + position_vectors


def own_cache(cache: Cache | None) -> Cache | None:
    """The keys and values of self-attention in a decoder's cache."""
    return cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache


class FeedForward(nn.Module):
    """FFN(x) = max(0, x W_1 + b_1) W_2 + b_2 (section 3.3, equation 2)."""

    def __init__(self, config: LayersConfig):
        super().__init__()
        self.fc1 = Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.activation]
        self.fc2 = Linear(config.intermediate_size, config.hidden_size)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation(self.fc1(states)))


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation (Ioffe and Szegedy 2015), in which every vector of `(..., width)` is one sample.

    In training it computes its statistics from all vectors it gets: pack them first (`packing_for_norm`).
    """

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return super().forward(states.flatten(0, -2)).view_as(states)


def normalization(config: LayersConfig) -> nn.Module:
    norm = nn.LayerNorm if config.norm_type == "layer" else BatchNorm
    return norm(config.hidden_size, eps=config.layer_norm_eps)


class Dropout(nn.Dropout):
    """`torch.nn.Dropout` that draws 16-bit random numbers on a CPU, four at a time.

    It takes less than half the time, which matters in small models. P_drop is rounded to 1 / 65536.
    """

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        dropped = round(self.p * 2**16)  # of 65,536 numbers
        on_cpu = states.device.type == "cpu" and not torch.compiler.is_compiling()
        if not (self.training and on_cpu and 0 < dropped < 2**16):
            return super().forward(states)
        draws = torch.empty(-(-states.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        numbers = draws.view(torch.int16)[: states.numel()].view(states.shape)  # from -32768 to 32767
        kept = numbers >= dropped - 2**15
        return states * kept.to(states.dtype).div_(1 - self.p)


class AddNorm(nn.Module):
    """LayerNorm(x + Dropout(Sublayer(x))) (sections 3.1, 5.4).

    Pre-norm, an option that the paper lacks, is x + Dropout(Sublayer(LayerNorm(x))).
    """

    def __init__(self, config: LayersConfig):
        super().__init__()
        self.norm = normalization(config)
        self.dropout = Dropout(config.dropout)
        self.pre_norm = config.norm_position == "pre"

    def forward(self, states: torch.Tensor, sublayer: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        if self.pre_norm:
            return states + self.dropout(sublayer(self.norm(states)))
        return self.norm(states + self.dropout(sublayer(states)))


class EncoderLayer(GradientCheckpointingLayer):
    """Self-attention, then the feed-forward network (figure 1, left)."""

    def __init__(self, config: LayersConfig):
        super().__init__()
        self.self_attn = Attention(config)
        self.self_attn_add_norm = AddNorm(config)
        self.feed_forward = FeedForward(config)
        self.feed_forward_add_norm = AddNorm(config)

    def forward(
        self, states: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> torch.Tensor:
        def attend_to_self(x: torch.Tensor) -> torch.Tensor:
            return self.self_attn(x, attention_mask=attention_mask, **kwargs)[0]

        def feed_forward(x: torch.Tensor) -> torch.Tensor:
            return self.feed_forward(x)  # accelerate would move a module that is an argument

        states = self.self_attn_add_norm(states, attend_to_self)
        return self.feed_forward_add_norm(states, feed_forward)


class DecoderLayer(GradientCheckpointingLayer):
    """Masked self-attention, attention to the encoder's output, feed-forward network (figure 1, right).

    A decoder without an encoder has no second sublayer.
    """

    def __init__(self, config: LayersConfig, layer_idx: int, is_causal: bool = True):
        super().__init__()
        self.self_attn = Attention(config, is_causal=is_causal, layer_idx=layer_idx)
        self.self_attn_add_norm = AddNorm(config)
        self.has_cross_attention = config.is_encoder_decoder
        if self.has_cross_attention:
            self.cross_attn = Attention(config, layer_idx=layer_idx)
            self.cross_attn_add_norm = AddNorm(config)
        self.feed_forward = FeedForward(config)
        self.feed_forward_add_norm = AddNorm(config)

    def forward(
        self,
        states: torch.Tensor,
        memory: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        memory_mask: torch.Tensor | None = None,
        position_vectors: torch.Tensor | None = None,
        memory_position_vectors: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        kwargs["position_vectors"] = position_vectors

        def attend_to_self(x: torch.Tensor) -> torch.Tensor:
            return self.self_attn(x, attention_mask=attention_mask, **kwargs)[0]

        def attend_to_memory(x: torch.Tensor) -> torch.Tensor:
            positions = memory_position_vectors
            return self.cross_attn(x, memory, memory_mask, memory_position_vectors=positions, **kwargs)[0]

        def feed_forward(x: torch.Tensor) -> torch.Tensor:
            return self.feed_forward(x)

        states = self.self_attn_add_norm(states, attend_to_self)
        if self.has_cross_attention:
            states = self.cross_attn_add_norm(states, attend_to_memory)
        return self.feed_forward_add_norm(states, feed_forward)
