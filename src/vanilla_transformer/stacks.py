"""The encoder and the decoder: vectors in, vectors out (section 3.1)."""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPastAndCrossAttentions
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_vanilla_transformer import LayersConfig, VanillaTransformerConfig
from .embeddings import PairEmbedding
from .layers import Attention, DecoderLayer, Dropout, EncoderLayer, Packing, normalization, own_cache


class VanillaTransformerPreTrainedModel(PreTrainedModel):
    """What every model here shares: its configuration, its initial weights and what it supports."""

    config_class = VanillaTransformerConfig  # that of the text models; the others name theirs
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["EncoderLayer", "DecoderLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    def save_pretrained(self, save_directory, *args, **kwargs):
        """As any model's, with the code: the folder loads as every head, with `trust_remote_code=True`."""
        config_class = f"configuration_vanilla_transformer.{type(self.config).__name__}"
        self.config.auto_map = {"AutoConfig": config_class, **self.config.code}
        super().save_pretrained(save_directory, *args, **kwargs)

    def _resize_token_embeddings(self, *args, **kwargs):
        """transformers resizes the encoder's embeddings and the output's; the decoder's may be others."""
        resized = super()._resize_token_embeddings(*args, **kwargs)
        if self.config.is_encoder_decoder and not self.config.tie_word_embeddings:
            decoder = self.base_model.decoder
            decoder.embed_tokens = self._get_resized_embeddings(decoder.embed_tokens, resized.num_embeddings)
        return resized

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Xavier for matrices; embeddings of variance 1 / d_model, so that scaled by √d_model they meet
        the positions as equals and, tied, keep the first logits near zero."""
        if isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, PairEmbedding):
            init.zeros_(module.weight)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=module.embedding_dim**-0.5)
        else:
            super()._init_weights(module)


def final_norm(config: LayersConfig) -> nn.Module:
    """Post-norm layers end with a norm of their own; pre-norm stacks need one after the last layer."""
    return normalization(config) if config.norm_position == "pre" else nn.Identity()


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
        packing: Packing | None = None,
        positions: torch.Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutput:
        """
        Args:
            states: `(batch, length, width)`, with their positions unless these are given apart.
            attention_mask: `(batch, length)`, 1 for real tokens and 0 for padding.
            packing: where the real tokens are; with it the output is packed, `(1, tokens, width)`.
            positions: `(batch, length, width)`, added to queries and keys in every layer.
        """
        mask = create_bidirectional_mask(self.config, states, attention_mask)
        inside = packing or packing_for_norm(self, attention_mask)
        states, positions = pack(inside, states), pack(inside, positions)
        states = self.dropout(states)
        for layer in self.layers:
            states = layer(states, mask, packing=inside, positions=positions, **kwargs)
        return BaseModelOutput(last_hidden_state=unpack(inside, self.norm(states), packing))


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
        packing: Packing | None = None,
        encoder_packing: Packing | None = None,
        positions: torch.Tensor | None = None,
        memory_positions: torch.Tensor | None = None,
        layer_outputs: list[torch.Tensor] | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """
        Args:
            states: `(batch, length, width)`, with their positions unless these are given apart.
            attention_mask: `(batch, past + length)`, 1 for real tokens and 0 for padding; or whatever
                transformers' masking functions take, such as one of four dimensions.
            encoder_hidden_states: the memory `(batch, source length, width)`, packed with `encoder_packing`.
            encoder_attention_mask: `(batch, source length)`.
            past_key_values: keys and values of earlier positions; the new ones are added to it.
            packing: where the real tokens are; with it the output is packed, `(1, tokens, width)`.
            positions, memory_positions: `(batch, length, width)`, `(batch, source length, width)`, added to
                queries and keys in every layer.
            layer_outputs: a list to which the output of each layer is added as if it were the last: for heads
                that learn from all of them.
        """
        if self.is_causal:
            cache = own_cache(past_key_values)
            mask = create_causal_mask(self.config, states, attention_mask, cache, position_ids)
        else:
            mask = create_bidirectional_mask(self.config, states, attention_mask)
        memory_mask = None
        if encoder_hidden_states is not None:
            memory_mask = create_bidirectional_mask(
                self.config,
                states,
                encoder_attention_mask,
                encoder_hidden_states=_as_padded(encoder_hidden_states, encoder_packing),
            )
        inside = packing or packing_for_norm(self, attention_mask)
        states, positions = pack(inside, states), pack(inside, positions)
        memory_positions = pack(encoder_packing, memory_positions)
        states = self.dropout(states)
        for layer in self.layers:
            states = layer(
                states,
                encoder_hidden_states,
                mask,
                memory_mask,
                positions,
                memory_positions,
                past_key_values=past_key_values,
                packing=inside,
                memory_packing=encoder_packing,
                **kwargs,
            )
            if layer_outputs is not None:
                layer_outputs.append(unpack(inside, self.norm(states), packing))
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=unpack(inside, self.norm(states), packing), past_key_values=past_key_values
        )


def pack(packing: Packing | None, padded: torch.Tensor | None) -> torch.Tensor | None:
    return padded if packing is None or padded is None else packing.pack(padded)


def unpack(inside: Packing | None, states: torch.Tensor, packing: Packing | None) -> torch.Tensor:
    """Undoes what the caller did not ask for."""
    return states if inside is packing else inside.unpack(states)


def packing_for_norm(stack: nn.Module, attention_mask: torch.Tensor | None) -> Packing | None:
    """Batch normalisation takes its statistics from all that it is given: then padding must not be there."""
    if stack.config.norm_type == "batch" and stack.training and attention_mask is not None:
        return Packing(attention_mask)
    return None


def _as_padded(states: torch.Tensor, packing: Packing | None) -> torch.Tensor:
    """A tensor of the padded shape, for masks, which read nothing but shape, dtype and device."""
    return states if packing is None else states.new_empty(1, 1, 1).expand(*packing.shape, states.shape[-1])


def new_cache(config: LayersConfig) -> Cache:
    """An empty cache that grows: for self-attention and, where there is an encoder, for cross-attention."""
    if config.is_encoder_decoder:
        return EncoderDecoderCache(DynamicCache(config=config), DynamicCache(config=config))
    return DynamicCache(config=config)
