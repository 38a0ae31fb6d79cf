"""The heads on the text encoder: filling in masked words, classifying texts and tokens, finding answers."""

import math
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_outputs import (
    MaskedLMOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.utils import can_return_tuple

from .configuration_vanilla_transformer import VanillaTransformerConfig
from .losses import TrainingLoss, share_of_update
from .modeling_vanilla_transformer import (
    LanguageModelHead,
    VanillaTransformerModel,
    VanillaTransformerPreTrainedModel,
    embed_inputs,
)
from .packing import NO_PACKING, Packing


class EncoderHead(VanillaTransformerPreTrainedModel):
    """The encoder, which all heads here share; they ignore the decoder of the configuration."""

    config: VanillaTransformerConfig

    def __init__(self, config: VanillaTransformerConfig):
        config = config.with_only("encoder")
        super().__init__(config)
        self.num_labels = cast("int", config.num_labels)
        self.model = VanillaTransformerModel(config)


class VanillaTransformerForMaskedLM(LanguageModelHead, EncoderHead):
    """Fills in masked words, with a projection tied to the embeddings.

    Example:
        >>> logits = VanillaTransformerForMaskedLM(config)(**source).logits
        >>> logits.shape  # (batch, length, vocabulary)
        torch.Size([2, 5, 300])
    """

    def __init__(self, config: VanillaTransformerConfig):
        super().__init__(config)
        self.add_projection(self.config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        training_loss: TrainingLoss | None = None,
        **kwargs: Any,
    ) -> MaskedLMOutput:
        """
        Args:
            labels: `(batch, length)`, the words at masked positions and -100 elsewhere.
            num_items_in_batch: the masked positions of the whole update; None counts those of `labels`.
            training_loss: returns this loss alone, and computes logits for masked positions only and nothing
                for padding.
        """
        packing = NO_PACKING if training_loss is None else Packing(attention_mask)
        outputs = self.model(
            input_ids, attention_mask, inputs_embeds=inputs_embeds, source_packing=packing, **kwargs
        )
        loss, logits = self.loss_and_logits(
            outputs.last_hidden_state,
            labels,
            num_items_in_batch,
            training_loss,
            packing=packing,
        )
        return MaskedLMOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class PairEmbedding(nn.Embedding):
    """Vectors for pairs of neighbouring tokens, one at the second token of each pair (Joulin et al. 2016).

    A hash of the two ids selects the row. Rows are zero before training. In training the share `dropout` of
    the pairs is dropped. On few texts attention hardly learns what "not" does to the next word; pairs do.
    """

    def __init__(self, rows: int, width: int, dropout: float):
        super().__init__(rows, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        if attention_mask is not None:
            input_ids = input_ids.masked_fill(attention_mask == 0, 0)  # padding makes no pair of its own
        before = F.pad(input_ids[:, :-1], (1, 0))
        rows = (before * 1_000_003 + input_ids * 7_919) % self.num_embeddings  # (batch, length)
        pairs = super().forward(rows) * math.sqrt(self.embedding_dim)
        return pairs * self.dropout(torch.ones_like(pairs[..., :1]))


class VanillaTransformerForSequenceClassification(EncoderHead):
    """The text as one vector, projected to the labels.

    Only this head reads `pooling`, `word_dropout` and `pair_rows` of the configuration. They are not the
    paper's.

    Example:
        >>> config = VanillaTransformerConfig.from_preset("tiny", vocab_size=300, num_labels=3)
        >>> VanillaTransformerForSequenceClassification(config)(**source).logits.shape
        torch.Size([2, 3])
    """

    def __init__(self, config: VanillaTransformerConfig):
        pairs = None
        config.require_memory()
        if config.pair_rows:  # created before the encoder, as when the recipes' scores were measured
            pairs = PairEmbedding(config.pair_rows, config.hidden_size, config.dropout)
        super().__init__(config)
        self.embed_pairs = pairs
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.hidden_size, self.num_labels)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, PairEmbedding):
            init.zeros_(module.weight)
        else:
            super()._init_weights(module)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """
        Args:
            labels: `(batch,)` class ids; `(batch, labels)` of 0 and 1 for several classes per text; real
                numbers for regression.
            num_items_in_batch: the labels of the whole update, when gradients are accumulated.
        """
        states, real = embed_inputs(self.model.encoder, input_ids, inputs_embeds), attention_mask
        if self.training and self.config.word_dropout:
            attention_mask = self._hide_words(states, attention_mask)
        if self.embed_pairs is not None:
            if input_ids is None:
                raise ValueError(
                    f"pair_rows={self.config.pair_rows} finds pairs by ids: pass input_ids, not inputs_embeds"
                )
            states = states + self.embed_pairs(input_ids, real)
        outputs = self.model(attention_mask=attention_mask, inputs_embeds=states, **kwargs)
        text = self._pool(outputs.last_hidden_state, attention_mask)
        logits = self.classifier(self.dropout(text))
        loss = None
        if labels is not None:
            loss = share_of_update(
                self.loss_function(labels, logits, self.config), labels, num_items_in_batch
            )
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )

    def _hide_words(self, states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """The mask without a random share of the words, never the first (word dropout, Iyyer et al. 2015).

        A hidden word is neither attended to nor part of the mean.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(states[..., 0], dtype=torch.long)
        kept = torch.rand(attention_mask.shape, device=attention_mask.device) >= self.config.word_dropout
        kept |= attention_mask.cumsum(-1) <= 1  # up to the first real word
        return attention_mask * kept  # (batch, length)

    def _pool(self, states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """`(batch, length, width)` to `(batch, width)`: the first vector, or the mean over real tokens."""
        if self.config.pooling == "class_token":
            first = 0 if attention_mask is None else attention_mask.int().argmax(-1)  # after padding
            return states[torch.arange(len(states), device=states.device), first]
        if attention_mask is None:
            return states.mean(1)
        real = attention_mask[..., None].to(states.dtype)
        return (states * real).sum(1) / real.sum(1).clamp(min=1)


class VanillaTransformerForTokenClassification(EncoderHead):
    """A label for each token.

    Example:
        >>> config = VanillaTransformerConfig.from_preset("tiny", vocab_size=300, num_labels=3)
        >>> VanillaTransformerForTokenClassification(config)(**source).logits.shape
        torch.Size([2, 5, 3])
    """

    def __init__(self, config: VanillaTransformerConfig):
        super().__init__(config)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.hidden_size, self.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> TokenClassifierOutput:
        """
        Args:
            labels: `(batch, length)` class ids; -100 is ignored.
            num_items_in_batch: the labelled tokens of the whole update, when gradients are accumulated.
        """
        outputs = self.model(input_ids, attention_mask, inputs_embeds=inputs_embeds, **kwargs)
        logits = self.classifier(self.dropout(outputs.last_hidden_state))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, self.config, num_items_in_batch=num_items_in_batch)
        return TokenClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class VanillaTransformerForQuestionAnswering(EncoderHead):
    """Finds where in the text an answer starts and ends.

    Example:
        >>> output = VanillaTransformerForQuestionAnswering(config)(**source)
        >>> output.start_logits.shape, output.end_logits.shape
        (torch.Size([2, 5]), torch.Size([2, 5]))
    """

    def __init__(self, config: VanillaTransformerConfig):
        super().__init__(config)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        start_positions: torch.Tensor | None = None,
        end_positions: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> QuestionAnsweringModelOutput:
        """
        Args:
            start_positions, end_positions: `(batch,)`, of the first and the last token of the answer.
        """
        outputs = self.model(input_ids, attention_mask, inputs_embeds=inputs_embeds, **kwargs)
        logits = self.qa_outputs(outputs.last_hidden_state)  # (batch, length, 2)
        start_logits, end_logits = logits.unbind(-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = self.loss_function(start_logits, end_logits, start_positions, end_positions)
        return QuestionAnsweringModelOutput(
            loss=loss,
            start_logits=start_logits,
            end_logits=end_logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


__all__ = [
    "VanillaTransformerForMaskedLM",
    "VanillaTransformerForQuestionAnswering",
    "VanillaTransformerForSequenceClassification",
    "VanillaTransformerForTokenClassification",
]
