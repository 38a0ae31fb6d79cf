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
    AutoTokenizer,
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
from .pipelines import register_pipelines
from .tokenization_vanilla_transformer import VanillaTransformerTokenizer

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
    model_class.register_for_auto_class(auto_class)  # saves the code with the model
VanillaTransformerConfig.register_for_auto_class()
AutoTokenizer.register(VanillaTransformerConfig, VanillaTransformerTokenizer, exist_ok=True)
VanillaTransformerTokenizer.register_for_auto_class()
register_pipelines()

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
    "VanillaTransformerTokenizer",
]
