"""The text models: the bare Transformer and two heads that write text. A head is projection, loss, output."""

import copy
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.cache_utils import Cache
from transformers.modeling_outputs import (
    BaseModelOutput,
    BaseModelOutputWithPastAndCrossAttentions,
    CausalLMOutputWithCrossAttentions,
    Seq2SeqLMOutput,
    Seq2SeqModelOutput,
)
from transformers.utils import can_return_tuple

from .configuration_vanilla_transformer import VanillaTransformerConfig
from .embeddings import TokenEmbedding, position_embedding, positions_of_tokens, shift_right
from .generation import PaperGenerationMixin
from .losses import (
    IGNORE_INDEX,
    TrainingLoss,
    label_smoothed_cross_entropy,
    projection_cross_entropy,
    require_labels,
)
from .packing import NO_PACKING, Packing, kept_positions, up_to_last_label
from .pipeline_registry import CUSTOM_PIPELINES
from .products import Linear
from .stacks import Decoder, Encoder, VanillaTransformerPreTrainedModel, new_cache

if TYPE_CHECKING:
    # transformers copies every file that is imported in this form into the folder of a saved model. With
    # this file too, the folder loads as every head.
    from .modeling_vanilla_transformer_encoder import EncoderHead  # noqa: F401


def embed_inputs(
    stack: "TextEncoder | TextDecoder", input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None
) -> torch.Tensor:
    if (input_ids is None) == (inputs_embeds is None):
        given = "neither" if input_ids is None else "both"
        raise ValueError(f"{type(stack).__name__} needs input_ids or inputs_embeds, but got {given}")
    return stack.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds


class TextEncoder(Encoder):
    """The encoder with its word embeddings."""

    config: VanillaTransformerConfig

    def __init__(self, config: VanillaTransformerConfig):
        super().__init__(config)
        self.embed_tokens: nn.Module = TokenEmbedding(config.vocab_size, config.hidden_size)
        self.embed_positions = position_embedding(config)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """Ids `(batch, length)` or embeddings `(batch, length, width)` to vectors of the latter shape."""
        states = embed_inputs(self, input_ids, inputs_embeds)
        positions = positions_of_tokens(states, attention_mask)
        states = self.embed_positions(states, positions, states.shape[1])
        return super().forward(states, attention_mask, **kwargs)


class TextDecoder(Decoder):
    """The decoder with its word embeddings."""

    config: VanillaTransformerConfig

    def __init__(self, config: VanillaTransformerConfig):
        super().__init__(config)
        self.embed_tokens: nn.Module = TokenEmbedding(config.output_vocab_size, config.hidden_size)
        self.embed_positions = position_embedding(config)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        position_ids: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """Ids `(batch, length)` or embeddings `(batch, length, width)` to vectors of the latter shape."""
        states = embed_inputs(self, input_ids, inputs_embeds)
        use_cache = self.config.use_cache if use_cache is None else use_cache
        if self.gradient_checkpointing and self.training:
            use_cache = False  # layers run again in the backward pass and would append their keys twice
        if not use_cache:
            past_key_values = None
        elif past_key_values is None:
            past_key_values = new_cache(self.config)
        past_length = 0 if past_key_values is None else past_key_values.get_seq_length()
        # A static cache keeps its length in a tensor, which is not read here: that would wait for the device.
        end = 0
        if position_ids is None:
            end = past_length + states.shape[1] if isinstance(past_length, int) else 0
            position_ids = positions_of_tokens(states, attention_mask, past_length)
        return super().forward(
            self.embed_positions(states, position_ids, end),
            attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
            **kwargs,
        )


class VanillaTransformerModel(VanillaTransformerPreTrainedModel):
    """Encoder and decoder without a head (figure 1); or one of them, if the other has no layers."""

    config: VanillaTransformerConfig

    def __init__(self, config: VanillaTransformerConfig):
        super().__init__(config)
        if config.has_shared_embeddings:
            # Any stack or head can load the matrix, because it is saved under this one name.
            self.shared: nn.Module = TokenEmbedding(config.vocab_size, config.hidden_size)
        self._tied_weights_keys: dict[str, str] = {}
        if config.encoder_layers:
            self.encoder = TextEncoder(config)
        if config.decoder_layers:
            self.decoder = TextDecoder(config)
        if config.has_shared_embeddings:
            stacks = [name for name in ("encoder", "decoder") if hasattr(self, name)]
            self._tied_weights_keys = {f"{stack}.embed_tokens.weight": "shared.weight" for stack in stacks}
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return (self.encoder if self.config.encoder_layers else self.decoder).embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        shared = self.config.has_shared_embeddings
        if shared:
            self.shared = value
        if self.config.encoder_layers:
            self.encoder.embed_tokens = value
        if self.config.decoder_layers and (shared or not self.config.encoder_layers):
            self.decoder.embed_tokens = value

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: BaseModelOutput | tuple | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        decoder_inputs_embeds: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        use_cache: bool | None = None,
        source_packing: Packing = NO_PACKING,
        target_packing: Packing = NO_PACKING,
        **kwargs: Any,
    ) -> Seq2SeqModelOutput | BaseModelOutput | BaseModelOutputWithPastAndCrossAttentions:
        """
        Args:
            input_ids, attention_mask, inputs_embeds: the source, `(batch, length)`, with 1 for real tokens
                and 0 for padding; without an encoder, the decoder's input.
            decoder_input_ids, decoder_attention_mask, decoder_inputs_embeds: the target so far,
                `(batch, length)`; by default the source shifted right.
            encoder_outputs: of an earlier run of the encoder, which then does not run again.
            position_ids: `(batch, length)`, for a decoder without an encoder, padded on the left.
            source_packing, target_packing: let the encoder and the decoder skip padding; `last_hidden_state`
                is then `(1, tokens, width)`.
        """
        if not self.config.encoder_layers:
            return self.decoder(
                input_ids,
                attention_mask,
                inputs_embeds,
                past_key_values=past_key_values,
                position_ids=position_ids,
                use_cache=use_cache,
                packing=target_packing,
                **kwargs,
            )
        encoded: BaseModelOutput
        if encoder_outputs is None:
            encoded = self.encoder(input_ids, attention_mask, inputs_embeds, packing=source_packing, **kwargs)
        elif isinstance(encoder_outputs, BaseModelOutput):
            encoded = encoder_outputs
        else:
            encoded = BaseModelOutput(*encoder_outputs)
        if not self.config.decoder_layers:
            return encoded

        if decoder_input_ids is None and decoder_inputs_embeds is None:
            if input_ids is None or self.config.target_vocab_size is not None:
                raise ValueError(f"{type(self).__name__} needs decoder_input_ids or decoder_inputs_embeds")
            decoder_input_ids = shift_right(input_ids, self.config)
        decoded = self.decoder(
            decoder_input_ids,
            decoder_attention_mask,
            decoder_inputs_embeds,
            past_key_values=past_key_values,
            use_cache=use_cache,
            encoder_hidden_states=encoded.last_hidden_state,
            encoder_attention_mask=attention_mask,
            packing=target_packing,
            source_packing=source_packing,
            **kwargs,
        )
        return Seq2SeqModelOutput(
            last_hidden_state=decoded.last_hidden_state,
            past_key_values=decoded.past_key_values,
            decoder_hidden_states=decoded.hidden_states,
            decoder_attentions=decoded.attentions,
            cross_attentions=decoded.cross_attentions,
            encoder_last_hidden_state=encoded.last_hidden_state,
            encoder_hidden_states=encoded.hidden_states,
            encoder_attentions=encoded.attentions,
        )


class LanguageModelHead:
    """The projection to the vocabulary, tied to the embeddings (section 3.4), and its loss."""

    _tied_weights_keys = {"lm_head.weight": "model.shared.weight"}

    def add_projection(self, config: VanillaTransformerConfig) -> None:
        words = config.output_vocab_size if config.decoder_layers else config.vocab_size
        self.lm_head: nn.Linear = Linear(config.hidden_size, words, bias=config.output_bias)
        if config.target_vocab_size is not None:
            own = "model.decoder.embed_tokens" if config.decoder_layers else "model.encoder.embed_tokens"
            self._tied_weights_keys = {"lm_head.weight": f"{own}.weight"}

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        self.lm_head = new_embeddings

    def loss_and_logits(
        self,
        states: torch.Tensor,
        labels: torch.Tensor | None,
        num_items_in_batch: torch.Tensor | int | None = None,
        training_loss: TrainingLoss | None = None,
        packing: Packing = NO_PACKING,
        logits_to_keep: int | torch.Tensor = 0,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """
        Args:
            states: `(batch, length, width)`; with `packing`, `(1, tokens, width)`.
            labels: `(batch, length)`; -100 is ignored.
            training_loss: returns this loss, and None for the logits.
        """
        if training_loss is not None:
            labels = packing.pack(require_labels(labels)[..., None]).flatten()  # (tokens,)
            states = states.flatten(0, 1)
            loss = projection_cross_entropy(states, self.lm_head, labels, training_loss, num_items_in_batch)
            return loss, None
        logits = self.lm_head(kept_positions(states, logits_to_keep))
        if labels is None:
            return None, logits
        return label_smoothed_cross_entropy(logits, labels, num_items_in_batch=num_items_in_batch), logits


class VanillaTransformerForConditionalGeneration(
    LanguageModelHead, VanillaTransformerPreTrainedModel, PaperGenerationMixin
):
    """The paper's model: encoder, decoder, and a projection to the vocabulary tied to the embeddings.

    >>> loss, logits = model(**batch).loss, model(**batch).logits  # logits: (batch, length, vocabulary)
    """

    config: VanillaTransformerConfig

    def __init__(self, config: VanillaTransformerConfig):
        if not config.is_encoder_decoder:
            raise ValueError(
                f"{type(self).__name__} needs both stacks, but encoder_layers={config.encoder_layers} "
                f"and decoder_layers={config.decoder_layers}"
            )
        super().__init__(config)
        self.model = VanillaTransformerModel(config)
        self.add_projection(config)
        self.post_init()

    def save_pretrained(self, save_directory: str | PathLike, *args: Any, **kwargs: Any) -> None:
        """Saves the pipelines of the model with it; see `PreTrainedModel.save_pretrained`."""
        self.config.custom_pipelines = copy.deepcopy(CUSTOM_PIPELINES)
        super().save_pretrained(save_directory, *args, **kwargs)

    def prepare_decoder_input_ids_from_labels(self, labels: torch.Tensor) -> torch.Tensor:
        return shift_right(labels, self.config)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: BaseModelOutput | tuple | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        decoder_inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        num_items_in_batch: torch.Tensor | int | None = None,
        training_loss: TrainingLoss | None = None,
        **kwargs: Any,
    ) -> Seq2SeqLMOutput:
        """
        Args:
            labels: `(batch, length)`, -100 for padding; shifted right they are the decoder's input, unless
                `decoder_input_ids` or `decoder_inputs_embeds` is given.
            logits_to_keep: number of last positions that get logits; 0 for all.
            num_items_in_batch: the labelled tokens of the whole update, by which the summed loss is divided
                when gradients are accumulated; None counts those of `labels`.
            training_loss: returns this loss alone, and computes nothing for padding, which must be on the
                right: the way to train. With R-Drop the batch must be `training_loss.doubled(batch)`.
        """
        if labels is not None:
            use_cache = False
            if decoder_input_ids is None and decoder_inputs_embeds is None:
                decoder_input_ids = shift_right(labels, self.config)
        source_packing = target_packing = NO_PACKING
        if training_loss is not None:
            source_mask = attention_mask if encoder_outputs is None else None
            source_packing = Packing(source_mask, hides_padding_only=True)
            no_mask = decoder_attention_mask is None
            target_packing = Packing(up_to_last_label(require_labels(labels)), hides_padding_only=no_mask)
        outputs = self.model(
            input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            encoder_outputs=encoder_outputs,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            decoder_inputs_embeds=decoder_inputs_embeds,
            use_cache=use_cache,
            source_packing=source_packing,
            target_packing=target_packing,
            **kwargs,
        )
        loss, logits = self.loss_and_logits(
            outputs.last_hidden_state,
            labels,
            num_items_in_batch,
            training_loss,
            packing=target_packing,
            logits_to_keep=logits_to_keep,
        )
        return Seq2SeqLMOutput(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            decoder_hidden_states=outputs.decoder_hidden_states,
            decoder_attentions=outputs.decoder_attentions,
            cross_attentions=outputs.cross_attentions,
            encoder_last_hidden_state=outputs.encoder_last_hidden_state,
            encoder_hidden_states=outputs.encoder_hidden_states,
            encoder_attentions=outputs.encoder_attentions,
        )


class VanillaTransformerForCausalLM(
    LanguageModelHead, VanillaTransformerPreTrainedModel, PaperGenerationMixin
):
    """The decoder alone as a language model; it ignores the encoder of the configuration.

    >>> logits = VanillaTransformerForCausalLM(config)(batch["input_ids"]).logits
    """

    def __init__(self, config: VanillaTransformerConfig):
        config = config.with_only("decoder")
        super().__init__(config)
        self.model = VanillaTransformerModel(config)
        self.add_projection(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        num_items_in_batch: torch.Tensor | int | None = None,
        training_loss: TrainingLoss | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithCrossAttentions:
        """
        Args:
            labels: `(batch, length)`, the input with -100 for padding; each position predicts the next one.
            num_items_in_batch, training_loss: as in conditional generation.
        """
        next_labels = kwargs.pop("shift_labels", None)  # sequence-parallel training shifts before it splits
        if labels is not None and next_labels is None:
            next_labels = nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)
        if next_labels is not None:
            use_cache = False
        packing = NO_PACKING
        if training_loss is not None:
            packing = Packing(up_to_last_label(require_labels(next_labels)))
        outputs = self.model(
            input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            target_packing=packing,
            **kwargs,
        )
        loss, logits = self.loss_and_logits(
            outputs.last_hidden_state,
            next_labels,
            num_items_in_batch,
            training_loss,
            packing=packing,
            logits_to_keep=logits_to_keep,
        )
        return CausalLMOutputWithCrossAttentions(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


__all__ = [
    "VanillaTransformerForCausalLM",
    "VanillaTransformerForConditionalGeneration",
    "VanillaTransformerModel",
    "VanillaTransformerPreTrainedModel",
]
