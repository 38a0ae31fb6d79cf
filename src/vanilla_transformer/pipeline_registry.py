"""Gives `transformers.pipeline` the tasks of `pipelines`."""

from typing import Any

from transformers import AutoModelForSeq2SeqLM
from transformers import pipelines as stock_pipelines
from transformers.pipelines import PIPELINE_REGISTRY, PipelineRegistry

from .pipelines import (
    LANGUAGE_PAIR,
    SummarizationPipeline,
    Text2TextGenerationPipeline,
    TranslationPipeline,
)


class TranslationRegistry(PipelineRegistry):
    """transformers' registry, plus `translation_xx_to_yy` for any two languages."""

    def check_task(self, task: str) -> tuple[str, dict, Any]:
        pair = LANGUAGE_PAIR.fullmatch(task)
        if pair is None:
            return super().check_task(task)
        _, entry, _ = super().check_task("translation")
        return "translation", entry, pair.groups()


# transformers 4's defaults for a pipeline without a model.
T5 = {"model": ("google-t5/t5-base", "a9723ea")}
DISTILBART = {"model": ("sshleifer/distilbart-cnn-12-6", "a4f8f3e")}
TASKS: dict[str, tuple[type[Text2TextGenerationPipeline], dict]] = {
    "translation": (TranslationPipeline, dict.fromkeys([("en", "fr"), ("en", "de"), ("en", "ro")], T5)),
    "summarization": (SummarizationPipeline, DISTILBART),
    "text2text-generation": (Text2TextGenerationPipeline, T5),
}

# An entry of config.json: a saved folder brings its own pipelines, for trust_remote_code.
CUSTOM_PIPELINES = {
    task: {"impl": f"pipelines.{pipeline_class.__name__}", "pt": ["AutoModelForSeq2SeqLM"], "type": "text"}
    for task, (pipeline_class, _) in TASKS.items()
}


def register_pipelines() -> None:
    """Adds these tasks to `transformers.pipeline`. A second call changes nothing."""
    for task, (pipeline_class, default) in TASKS.items():
        getattr(stock_pipelines, "REMOVED_TASKS", {}).pop(task, None)  # not in transformers 5.17
        PIPELINE_REGISTRY.supported_tasks[task] = {
            "impl": pipeline_class,
            "pt": (AutoModelForSeq2SeqLM,),
            "default": default,
            "type": "text",
        }
    PIPELINE_REGISTRY.__class__ = TranslationRegistry


__all__ = ["register_pipelines"]
