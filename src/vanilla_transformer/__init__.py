"""The Transformer of "Attention Is All You Need" for the Hugging Face ecosystem.

Importing the package registers models, tokenizer, image processor and pipelines with transformers.
"""

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForObjectDetection,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from .configuration_vanilla_transformer import (
    DETECTION_PRESETS,
    PRESETS,
    VISION_PRESETS,
    VanillaTransformerConfig,
    VanillaTransformerDetectionConfig,
    VanillaTransformerVisionConfig,
)
from .image_processing_vanilla_transformer import VanillaTransformerImageProcessor
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
from .modeling_vanilla_transformer_detection import (
    VanillaTransformerDetectionModel,
    VanillaTransformerForObjectDetection,
)
from .modeling_vanilla_transformer_vision import (
    VanillaTransformerForImageClassification,
    VanillaTransformerVisionModel,
)
from .pipelines import register_pipelines
from .tokenization_vanilla_transformer import VanillaTransformerTokenizer

__version__ = "0.1.0"

MODEL_CLASSES = {
    VanillaTransformerConfig: {
        AutoModel: VanillaTransformerModel,
        AutoModelForSeq2SeqLM: VanillaTransformerForConditionalGeneration,
        AutoModelForCausalLM: VanillaTransformerForCausalLM,
        AutoModelForMaskedLM: VanillaTransformerForMaskedLM,
        AutoModelForSequenceClassification: VanillaTransformerForSequenceClassification,
        AutoModelForTokenClassification: VanillaTransformerForTokenClassification,
        AutoModelForQuestionAnswering: VanillaTransformerForQuestionAnswering,
    },
    VanillaTransformerVisionConfig: {
        AutoModel: VanillaTransformerVisionModel,
        AutoModelForImageClassification: VanillaTransformerForImageClassification,
    },
    VanillaTransformerDetectionConfig: {
        AutoModel: VanillaTransformerDetectionModel,
        AutoModelForObjectDetection: VanillaTransformerForObjectDetection,
    },
}

for config_class, model_classes in MODEL_CLASSES.items():
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    config_class.register_for_auto_class()  # saves the code with the model
    for auto_class, model_class in model_classes.items():
        auto_class.register(config_class, model_class, exist_ok=True)
        model_class.register_for_auto_class(auto_class)
        # Where pipelines look the name up, to say in a loud error that the model is not supported.
        auto_class._model_mapping._model_mapping[config_class.model_type] = model_class.__name__
AutoTokenizer.register(VanillaTransformerConfig, VanillaTransformerTokenizer, exist_ok=True)
VanillaTransformerTokenizer.register_for_auto_class()
for config_class in (VanillaTransformerVisionConfig, VanillaTransformerDetectionConfig):
    AutoImageProcessor.register(
        config_class, image_processor_classes={"pil": VanillaTransformerImageProcessor}, exist_ok=True
    )
VanillaTransformerImageProcessor.register_for_auto_class()
register_pipelines()

__all__ = [
    "DETECTION_PRESETS",
    "PRESETS",
    "VISION_PRESETS",
    "VanillaTransformerConfig",
    "VanillaTransformerDetectionConfig",
    "VanillaTransformerForObjectDetection",
    "VanillaTransformerDetectionModel",
    "VanillaTransformerForCausalLM",
    "VanillaTransformerForConditionalGeneration",
    "VanillaTransformerForMaskedLM",
    "VanillaTransformerForQuestionAnswering",
    "VanillaTransformerForSequenceClassification",
    "VanillaTransformerForTokenClassification",
    "VanillaTransformerImageProcessor",
    "VanillaTransformerModel",
    "VanillaTransformerPreTrainedModel",
    "VanillaTransformerTokenizer",
    "VanillaTransformerVisionConfig",
    "VanillaTransformerForImageClassification",
    "VanillaTransformerVisionModel",
]
