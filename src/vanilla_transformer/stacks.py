"""The encoder and the decoder: vectors in, vectors out (section 3.1)."""

import copy
import os
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPastAndCrossAttentions
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_vanilla_transformer import LayersConfig, VanillaTransformerConfig
from .layers import Attention, DecoderLayer, Dropout, EncoderLayer, normalization, own_cache
from .packing import NO_PACKING, Packing, packing_for_norm


class VanillaTransformerPreTrainedModel(PreTrainedModel):
    """The base of every model here: initial weights, saving, and the features that it supports."""

    config: LayersConfig
    config_class: type[LayersConfig] = VanillaTransformerConfig  # of the text models; the others set theirs
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["EncoderLayer", "DecoderLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    def __init__(self, config: LayersConfig, *args: Any, **kwargs: Any):
        config.require_memory()
        super().__init__(config, *args, **kwargs)

    def save_pretrained(self, save_directory: str | PathLike, *args: Any, **kwargs: Any) -> None:
        """Saves the code with the weights: with `trust_remote_code=True` the folder loads as every head."""
        config_class = f"configuration_vanilla_transformer.{type(self.config).__name__}"
        self.config.auto_map = {"AutoConfig": config_class, **self.config.code}
        super().save_pretrained(save_directory, *args, **kwargs)
        apply_umask(save_directory)

    def _resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Resizes the decoder's embeddings too, which transformers ignores when they are not tied."""
        if isinstance(self.config, VanillaTransformerConfig) and self.config.target_vocab_size is not None:
            raise ValueError(
                "source and target have separate vocabularies (target_vocab_size="
                f"{self.config.target_vocab_size}): one new size does not fit both"
            )
        resized = super()._resize_token_embeddings(*args, **kwargs)
        if self.config.is_encoder_decoder and not self.config.tie_word_embeddings:
            decoder: Any = self.base_model.decoder
            decoder.embed_tokens = self._get_resized_embeddings(decoder.embed_tokens, resized.num_embeddings)
        return resized

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Xavier for matrices, and variance 1 / d_model for embeddings.

        Scaled by √d_model, embeddings are then as large as positions; as tied output weights they give small
        logits before training.
        """
        if isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=module.embedding_dim**-0.5)
        else:
            super()._init_weights(module)


def final_norm(config: LayersConfig) -> nn.Module:
    """The norm after the last layer, which pre-norm stacks need; post-norm layers end with their own."""
    is_needed = config.norm_position == "pre" if config.final_norm is None else config.final_norm
    return normalization(config) if is_needed else nn.Identity()


def attention_of_a_call(config: LayersConfig, kwargs: dict[str, Any]) -> tuple[LayersConfig, dict[str, Any]]:
    """The configuration for the masks of a call: that of "eager" attention if the call returns weights."""
    if not kwargs.get("output_attentions", config.output_attentions):
        return config, kwargs
    config = copy.copy(config)  # other threads use the model's own
    config._attn_implementation = "eager"
    return config, {**kwargs, "output_attentions": True}


class Encoder(VanillaTransformerPreTrainedModel):
    """`encoder_layers` identical layers (figure 1, left)."""

    _can_record_outputs = {"hidden_states": EncoderLayer, "attentions": Attention}

    def __init__(self, config: LayersConfig):
        super().__init__(config)
        self.dropout = Dropout(config.dropout)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.norm = final_norm(config)
        self.gradient_checkpointing = False

    @capture_outputs
    def forward(
        self,
        states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        packing: Packing = NO_PACKING,
        position_vectors: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """
        Args:
            states: `(batch, length, width)`, with positions added unless `position_vectors` holds them.
            attention_mask: `(batch, length)`, 1 for real tokens and 0 for padding.
            packing: skips padding; the output is `(1, tokens, width)`.
            position_vectors: `(batch, length, width)`, added to queries and keys in every layer.
        """
        config, kwargs = attention_of_a_call(self.config, kwargs)
        mask = create_bidirectional_mask(config, states, attention_mask)
        packing = packing_for_norm(packing, self, attention_mask)
        if position_vectors is not None:
            position_vectors = packing.pack(position_vectors)
        states = self.dropout(packing.pack(states))
        for layer in self.layers:
            states = layer(states, mask, packing=packing, position_vectors=position_vectors, **kwargs)
        return BaseModelOutput(last_hidden_state=packing.output(self.norm(states)))


class Decoder(VanillaTransformerPreTrainedModel):
    """`decoder_layers` identical layers (figure 1, right)."""

    _can_record_outputs = {
        "hidden_states": DecoderLayer,
        "attentions": OutputRecorder(Attention, index=1, layer_name="self_attn"),
        "cross_attentions": OutputRecorder(Attention, index=1, layer_name="cross_attn"),
    }

    def __init__(self, config: LayersConfig, is_causal: bool = True):
        super().__init__(config)
        self.is_causal = is_causal
        self.dropout = Dropout(config.dropout)
        self.layers = nn.ModuleList(
            DecoderLayer(config, index, is_causal) for index in range(config.decoder_layers)
        )
        self.norm = final_norm(config)
        self.gradient_checkpointing = False

    @capture_outputs
    def forward(
        self,
        states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        position_ids: torch.Tensor | None = None,
        packing: Packing = NO_PACKING,
        source_packing: Packing = NO_PACKING,
        position_vectors: torch.Tensor | None = None,
        memory_position_vectors: torch.Tensor | None = None,
        layer_outputs: list[torch.Tensor] | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """
        Args:
            states: `(batch, length, width)`, with positions added unless `position_vectors` holds them.
            attention_mask: `(batch, past + length)`, 1 for real tokens and 0 for padding; or any other mask
                that transformers' masking functions take, such as one with four dimensions.
            encoder_hidden_states: the memory, `(batch, source length, width)`; with `source_packing`,
                `(1, tokens, width)`.
            encoder_attention_mask: `(batch, source length)`.
            past_key_values: keys and values of earlier positions; the decoder appends the new ones.
            packing: skips padding; the output is `(1, tokens, width)`.
            source_packing: the packing that the encoder got.
            position_vectors, memory_position_vectors: `(batch, length, width)`, `(batch, source length,
                width)`, added to queries and keys in every layer.
            layer_outputs: a list to which the decoder appends the output of each layer, normalised as the
                last one is, for heads that learn from all layers.
        """
        config, kwargs = attention_of_a_call(self.config, kwargs)
        if self.is_causal:
            cache = own_cache(past_key_values)
            mask = create_causal_mask(config, states, attention_mask, cache, position_ids)
        else:
            mask = create_bidirectional_mask(config, states, attention_mask)
        memory_mask = None
        if encoder_hidden_states is not None:
            padded_column = source_packing.unpack(encoder_hidden_states[..., :1])  # the mask needs its length
            memory_mask = create_bidirectional_mask(
                config, states, encoder_attention_mask, encoder_hidden_states=padded_column
            )
        packing = packing_for_norm(packing, self, attention_mask)
        if position_vectors is not None:
            position_vectors = packing.pack(position_vectors)
        if memory_position_vectors is not None:
            memory_position_vectors = source_packing.pack(memory_position_vectors)
        states = self.dropout(packing.pack(states))
        for layer in self.layers:
            states = layer(
                states,
                encoder_hidden_states,
                mask,
                memory_mask,
                position_vectors,
                memory_position_vectors,
                past_key_values=past_key_values,
                packing=packing,
                memory_packing=source_packing,
                **kwargs,
            )
            if layer_outputs is not None:
                layer_outputs.append(packing.output(self.norm(states)))
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=packing.output(self.norm(states)), past_key_values=past_key_values
        )


def new_cache(config: LayersConfig) -> Cache:
    """An empty cache that grows, for self-attention and, if there is an encoder, for cross-attention."""
    if config.is_encoder_decoder:
        return EncoderDecoderCache(DynamicCache(config=config), DynamicCache(config=config))
    return DynamicCache(config=config)


def apply_umask(folder: str | PathLike) -> None:
    """Give the weights in a folder the mode of other new files; safetensors always creates them as 0600."""
    umask = os.umask(0o077)
    os.umask(umask)
    for file in Path(folder).glob("*.safetensors"):
        file.chmod(0o666 & ~umask)
