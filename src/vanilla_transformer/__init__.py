"""The Transformer of "Attention Is All You Need" for the Hugging Face ecosystem.

Importing the package registers models, tokenizer, image processor and pipelines with transformers. Names that
need the heavy packages of an extra are imported on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

import transformers
from transformers import AutoConfig, AutoTokenizer

# Not from the top level, where transformers 5.17 hides it without torchvision.
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from .alignments import choose_attention, split_words, word_alignments
from .configuration_vanilla_transformer import (
    DETECTION_PRESETS,
    PRESETS,
    VISION_PRESETS,
    VanillaTransformerConfig,
    VanillaTransformerDetectionConfig,
    VanillaTransformerVisionConfig,
)
from .generation import paper_generation_config
from .image_processing_vanilla_transformer import VanillaTransformerImageProcessor
from .losses import TrainingLoss
from .minimum_bayes_risk import minimum_bayes_risk
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
from .pipeline_registry import register_pipelines
from .scores import sequence_scores
from .terms import ForbiddenTerms, find_terms
from .tokenization_toolkit import ToolkitTokenizer
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
        auto_class = getattr(transformers, auto_class_name, None)
        model_class = globals().get(reference.rpartition(".")[2])
        if auto_class is None or model_class is None:
            problem = (
                f"transformers {transformers.__version__} has no {auto_class_name}"
                if auto_class is None
                else f"vanilla_transformer/__init__.py imports no such class for {auto_class_name}"
            )
            raise ImportError(f"{config_class.__name__}.code names {reference}: {problem}")
        auto_class.register(config_class, model_class, exist_ok=True)
        model_class.register_for_auto_class(auto_class)
        # Pipelines look the name up in this table, to log an error if they do not support the model.
        auto_class._model_mapping._model_mapping[config_class.model_type] = model_class.__name__
AutoTokenizer.register(  # the first for new models, the other by the name that an imported folder has
    VanillaTransformerConfig,
    VanillaTransformerTokenizer,
    slow_tokenizer_class=ToolkitTokenizer,
    exist_ok=True,
)
for tokenizer_class in (VanillaTransformerTokenizer, ToolkitTokenizer):
    tokenizer_class.register_for_auto_class()
for config_class in (VanillaTransformerVisionConfig, VanillaTransformerDetectionConfig):
    AutoImageProcessor.register(
        config_class, image_processor_classes={"pil": VanillaTransformerImageProcessor}, exist_ok=True
    )
VanillaTransformerImageProcessor.register_for_auto_class()
register_pipelines()

LAZY = {
    "Seq2SeqCollator": "training",
    "TrainingInterrupted": "training",
    "VanillaTransformerSeq2SeqTrainer": "training",
    "VanillaTransformerTrainer": "training",
    "VanillaTransformerTrainingArguments": "training",
    "average_checkpoints": "training",
    "load_corpus": "corpora",
    "load_metric": "metrics",
    "write_custom_generate": "custom_generate",
    "write_model_card": "model_card",
}

if TYPE_CHECKING:
    from .corpora import load_corpus
    from .custom_generate import write_custom_generate
    from .metrics import load_metric
    from .model_card import write_model_card
    from .training import (
        Seq2SeqCollator,
        TrainingInterrupted,
        VanillaTransformerSeq2SeqTrainer,
        VanillaTransformerTrainer,
        VanillaTransformerTrainingArguments,
        average_checkpoints,
    )


def __getattr__(name: str) -> Any:
    if name not in LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *LAZY})


__all__ = [
    "DETECTION_PRESETS",
    "ForbiddenTerms",
    "PRESETS",
    "Seq2SeqCollator",
    "ToolkitTokenizer",
    "TrainingInterrupted",
    "TrainingLoss",
    "VISION_PRESETS",
    "VanillaTransformerConfig",
    "VanillaTransformerDetectionConfig",
    "VanillaTransformerDetectionModel",
    "VanillaTransformerForCausalLM",
    "VanillaTransformerForConditionalGeneration",
    "VanillaTransformerForImageClassification",
    "VanillaTransformerForMaskedLM",
    "VanillaTransformerForObjectDetection",
    "VanillaTransformerForQuestionAnswering",
    "VanillaTransformerForSequenceClassification",
    "VanillaTransformerForTokenClassification",
    "VanillaTransformerImageProcessor",
    "VanillaTransformerModel",
    "VanillaTransformerPreTrainedModel",
    "VanillaTransformerSeq2SeqTrainer",
    "VanillaTransformerTokenizer",
    "VanillaTransformerTrainer",
    "VanillaTransformerTrainingArguments",
    "VanillaTransformerVisionConfig",
    "VanillaTransformerVisionModel",
    "average_checkpoints",
    "choose_attention",
    "find_terms",
    "load_corpus",
    "load_metric",
    "minimum_bayes_risk",
    "paper_generation_config",
    "sequence_scores",
    "split_words",
    "word_alignments",
    "write_custom_generate",
    "write_model_card",
]
