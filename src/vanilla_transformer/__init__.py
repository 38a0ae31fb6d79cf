"""The Transformer of "Attention Is All You Need" for the Hugging Face ecosystem.

Importing the package registers the models, the tokenizer and the pipelines with transformers' Auto classes.
"""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from .configuration_vanilla_transformer import PRESETS, VanillaTransformerConfig
from .modeling_vanilla_transformer import (
    VanillaTransformerForCausalLM,
    VanillaTransformerForConditionalGeneration,
    VanillaTransformerForMaskedLM,
    VanillaTransformerForQuestionAnswering,
    VanillaTransformerForSequenceClassification,
    VanillaTransformerForTokenClassification,
    VanillaTransformerModel,
    VanillaTransformerPreTrainedModel,
)

__version__ = "0.1.0"

MODEL_CLASSES = {
    AutoModel: VanillaTransformerModel,
    AutoModelForSeq2SeqLM: VanillaTransformerForConditionalGeneration,
    AutoModelForCausalLM: VanillaTransformerForCausalLM,
    AutoModelForMaskedLM: VanillaTransformerForMaskedLM,
    AutoModelForSequenceClassification: VanillaTransformerForSequenceClassification,
    AutoModelForTokenClassification: VanillaTransformerForTokenClassification,
    AutoModelForQuestionAnswering: VanillaTransformerForQuestionAnswering,
}

AutoConfig.register(VanillaTransformerConfig.model_type, VanillaTransformerConfig, exist_ok=True)
for auto_class, model_class in MODEL_CLASSES.items():
    auto_class.register(VanillaTransformerConfig, model_class, exist_ok=True)

__all__ = [
    "PRESETS",
    "VanillaTransformerConfig",
    "VanillaTransformerForCausalLM",
    "VanillaTransformerForConditionalGeneration",
    "VanillaTransformerForMaskedLM",
    "VanillaTransformerForQuestionAnswering",
    "VanillaTransformerForSequenceClassification",
    "VanillaTransformerForTokenClassification",
    "VanillaTransformerModel",
    "VanillaTransformerPreTrainedModel",
]
