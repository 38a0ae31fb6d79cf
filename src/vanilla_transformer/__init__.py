"""The Transformer of "Attention Is All You Need" for the Hugging Face ecosystem.

Importing the package registers models, tokenizer, image processor and pipelines with transformers.
"""

import transformers
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer

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
    VanillaTransformerModel,
    VanillaTransformerPreTrainedModel,
)
from .modeling_vanilla_transformer_detection import (
    VanillaTransformerDetectionModel,
    VanillaTransformerForObjectDetection,
)
from .modeling_vanilla_transformer_encoder import (
    VanillaTransformerForMaskedLM,
    VanillaTransformerForQuestionAnswering,
    VanillaTransformerForSequenceClassification,
    VanillaTransformerForTokenClassification,
)
from .modeling_vanilla_transformer_vision import (
    VanillaTransformerForImageClassification,
    VanillaTransformerVisionModel,
)
from .pipelines import register_pipelines
from .tokenization_vanilla_transformer import VanillaTransformerTokenizer

__version__ = "0.1.0"

for config_class in (
    VanillaTransformerConfig,
    VanillaTransformerVisionConfig,
    VanillaTransformerDetectionConfig,
):
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    config_class.register_for_auto_class()  # saves the code with the model
    for auto_class_name, reference in config_class.code.items():
        auto_class, model_class = getattr(transformers, auto_class_name), globals()[reference.split(".")[1]]
        auto_class.register(config_class, model_class, exist_ok=True)
        model_class.register_for_auto_class(auto_class)
        # Pipelines look the name up in this table, to log an error if they do not support the model.
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
