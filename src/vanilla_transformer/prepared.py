"""The weights of a decoder, prepared once for steps of one token; `Decoding` takes the steps.

Prepared weights compute what `TextDecoder` and the projection to the vocabulary compute in evaluation, in the
same order (figure 1, right). They are packed for products with few rows, or rounded to bf16 or int8. Queries,
keys and values of self-attention are one product, and so are the keys and values of all layers for the
encoder's output.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn.functional import embedding
from torch.nn.modules import module as hooks_of_all
from transformers import GenerationMixin

from .embeddings import LearnedPositions, SinusoidalPositions, TokenEmbedding, sinusoids
from .layers import AddNorm, Attention, BatchNorm, DecoderLayer, Dropout, FeedForward
from .products import FORMATS, Linear, Product, fastest_precision, prepare

if TYPE_CHECKING:
    from .decoding import Decoding

PRECISIONS = (*FORMATS, "int8", "auto")


class PreparedDecoder:
    """The weights of a decoder and its projection to the vocabulary.

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
        self.device = model.lm_head.weight.device
        # Of the vectors between products: see `prepare`.
        self.dtype = FORMATS["fp32" if self.device.type == "cpu" else precision]
        self.width, self.heads = config.hidden_size, config.num_attention_heads
        self.head_dim, self.value_dim = config.head_dim, config.value_dim
        self.embeddings = decoder.embed_tokens.weight.detach()
        self.learned = isinstance(decoder.embed_positions, LearnedPositions)
        self.positions = decoder.embed_positions.weight.detach() if self.learned else self._sinusoids(256)
        self.static: dict[tuple, Any] = {}  # `StaticDecoding` by size, with its graphs
        self.layers = [PreparedLayer(layer, self) for layer in layers]
        self.norm = self.prepared_norm(decoder.norm)
        self.to_logits = self.product([model.lm_head])
        if config.is_encoder_decoder:
            attentions = [layer.cross_attn for layer in layers]
            keys, values = [each.k_proj for each in attentions], [each.v_proj for each in attentions]
            self.memory_product = self.product([*keys, *values])

    def product(self, linears: Sequence[nn.Linear]) -> Product:
        """One product for linear layers of the same input; their outputs lie side by side."""
        weights = [linear.weight.detach() for linear in linears]
        bias = None
        if any(linear.bias is not None for linear in linears):
            zeros = weights[0].new_zeros
            bias = torch.cat(
                [
                    zeros(len(weight)) if part.bias is None else part.bias.detach()
                    for part, weight in zip(linears, weights)
                ]
            )
        return prepare(torch.cat(weights) if len(weights) > 1 else weights[0], bias, self.precision)

    def prepared_norm(self, norm: Any) -> Callable[[torch.Tensor], torch.Tensor]:
        if isinstance(norm, nn.Identity):
            return norm
        weight = norm.weight.detach()
        bias = torch.zeros_like(weight) if norm.bias is None else norm.bias.detach()
        if isinstance(norm, BatchNorm):  # in evaluation it is an affine map
            mean, variance = norm.running_mean, norm.running_var
            assert mean is not None and variance is not None, "BatchNorm keeps running statistics"
            weight = weight * (variance + norm.eps).rsqrt()
            bias, weight = (bias - mean * weight).to(self.dtype), weight.to(self.dtype)
            return lambda states: torch.addcmul(bias, states, weight)
        shape, eps, weight, bias = list(weight.shape), norm.eps, weight.to(self.dtype), bias.to(self.dtype)
        return lambda states: torch.layer_norm(states, shape, weight, bias, eps)

    def require_positions(self, end: int) -> None:
        """Makes `positions` long enough; learned ones raise ValueError, as in the model's forward pass."""
        if self.learned:
            LearnedPositions.check(end, len(self.positions))
        elif end > len(self.positions):
            self.positions = self._sinusoids(2 * end)

    def embed(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Ids `(rows,)` at positions `(1,)` or `(rows,)` to vectors `(rows, width)`."""
        vectors = embedding(tokens, self.embeddings) * math.sqrt(self.width)
        return (vectors + embedding(positions, self.positions)).to(self.dtype)

    def _sinusoids(self, count: int) -> torch.Tensor:
        return sinusoids(torch.arange(count, device=self.device), self.width)


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
            self.cross_scaling = layer.cross_attn.scaling
            self.cross_q_proj = decoder.product([layer.cross_attn.q_proj])
            self.cross_o_proj = decoder.product([layer.cross_attn.o_proj])
            self.cross_attn_add_norm = PreparedAddNorm(layer.cross_attn_add_norm, decoder)
        self.fc1 = decoder.product([layer.feed_forward.fc1])
        self.fc2 = decoder.product([layer.feed_forward.fc2])
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
                batch.look_at_source(query, keys, self.cross_scaling)
            heads = batch.attend(query, keys, values, batch.memory_mask, self.cross_scaling)
            return self.cross_o_proj(heads)

        def feed_forward(x: torch.Tensor) -> torch.Tensor:
            return self.fc2(self.activation(self.fc1(x)))

        states = self.self_attn_add_norm(states, attend_to_self)
        if self.has_cross_attention:
            states = self.cross_attn_add_norm(states, attend_to_memory)
        return self.feed_forward_add_norm(states, feed_forward)


class Prepared(NamedTuple):
    """A prepared decoder, and what shows whether the model's weights are still those it was made of."""

    decoder: PreparedDecoder
    asked: str | None  # the precision that `prepare_for_decoding` got
    weights: list[tuple]  # the place and version of each, and settings of the layers
    samples: list[torch.Tensor]  # of each, where it is in memory
    values: torch.Tensor  # a copy of the samples

    def holds(self, asked: str | None, precision: str, weights: list[tuple]) -> bool:
        """Whether these are still the weights, and the precision is the one that is asked for."""
        return (
            self.asked == asked
            and precision in ("auto", self.decoder.precision)
            and self.weights == weights
            and torch.equal(bits(torch.cat(self.samples)), bits(self.values))
        )


# Beside the models and not in them: nothing of it is saved, copied or moved with a model.
PREPARED: WeakKeyDictionary[nn.Module, Prepared] = WeakKeyDictionary()


def prepared_decoder(model: Any, *precision: str | None) -> PreparedDecoder:
    """The model's prepared weights, which are prepared again if the model's own have changed.

    Assigning to `weight.data` leaves no trace in the version of a weight. Samples of each row and column show
    it, if it changes more than a few numbers.

    Args:
        precision: one of `PRECISIONS`, or None for that of the weights (with autocast, that of autocast).
            Without it, the one of the last call holds.
    """
    known = PREPARED.get(model)
    asked = precision[0] if precision else known.asked if known else None
    tensors = tensors_of(model)
    weights: list[tuple] = settings_of(model)
    weights += [(tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version) for tensor in tensors]
    device, dtype = model.lm_head.weight.device.type, model.lm_head.weight.dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    wanted = asked or next(name for name, format in FORMATS.items() if format == dtype)
    if known is None or precision or not known.holds(asked, wanted, weights):
        samples = [sample for tensor in tensors if tensor.numel() for sample in samples_of(tensor.detach())]
        known = Prepared(PreparedDecoder(model, wanted), asked, weights, samples, torch.cat(samples))
        PREPARED[model] = known
    return known.decoder


def bits(numbers: torch.Tensor) -> torch.Tensor:
    """Equal bits are equal even if they mean NaN."""
    return numbers.view(torch.uint8)


def samples_of(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Views of a vector, or of the first number of each row and a diagonal that meets every column."""
    if tensor.ndim < 2:
        return (tensor.view(-1),)
    if not tensor.is_contiguous():  # such as a transposed weight, which has no flat view
        return tensor[:, 0], tensor.diagonal()
    return tensor.view(len(tensor), -1)[:, 0], tensor.view(-1)[:: tensor[0].numel() + 1]


def settings_of(model: Any) -> list[tuple]:
    """What the layers do beside their weights, and which modules they are."""
    settings: list[tuple] = []
    for layer in model.model.decoder.layers:
        attentions = [module for module in layer.children() if isinstance(module, Attention)]
        norms = [module.pre_norm for module in layer.children() if isinstance(module, AddNorm)]
        settings.append((id(layer.feed_forward.activation), *(part.scaling for part in attentions), *norms))
    return settings


def tensors_of(model: Any) -> list[torch.Tensor]:
    """The parameters and buffers of the decoder and of the projection to the vocabulary."""
    modules = (*model.model.decoder.modules(), model.lm_head)
    tensors = (
        part for module in modules for part in (*module._parameters.values(), *module._buffers.values())
    )
    return [tensor for tensor in tensors if tensor is not None]


ATTENTIONS = ("eager", "sdpa", "flex_attention")
ACTIVATIONS = ("transformers.activations", "torch.nn.modules.activation")
PREPARABLE = {
    *(nn.Linear, Linear, nn.LayerNorm, BatchNorm, nn.Identity, Dropout, nn.ModuleList),
    *(TokenEmbedding, SinusoidalPositions, LearnedPositions),
    *(Attention, FeedForward, AddNorm, DecoderLayer),
}


PREPARATIONS = ("prepare_inputs_for_generation", "_update_model_kwargs_for_generation")


def is_in_training(model: Any) -> bool:
    return any(module.training for module in (model, *model.model.decoder.modules()))


def why_not_prepared(model: Any) -> str | None:
    """Why only the model's own forward pass computes what it computes; None if prepared weights do too."""
    for name in PREPARATIONS:  # adapters of prefixes replace them
        if name in vars(model) or getattr(type(model), name) is not getattr(GenerationMixin, name):
            return f"it has its own {name}"
    attention = model.config._attn_implementation
    if attention not in ATTENTIONS and not attention.startswith("flash_attention"):
        return f"its attention is {attention!r}"
    if hooks_of_all._global_forward_hooks or hooks_of_all._global_forward_pre_hooks:
        return "a hook is registered for all modules"
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
