"""The text pipelines that transformers 5 left out: translation, summarization, text2text-generation.

They take the options and return the keys of transformers 4, for any encoder-decoder model.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSeq2SeqLM, GenerationConfig, Pipeline
from transformers import pipelines as stock_pipelines
from transformers.pipelines import PIPELINE_REGISTRY, PipelineRegistry
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER
from transformers.utils import ModelOutput, logging

logger = logging.get_logger(__name__)

LANGUAGE_PAIR = re.compile(r"translation_(.+?)_to_(.+)")
STAND_IN = "."  # what a model is given for a blank text; its answer is thrown away


class Text2TextGenerationPipeline(Pipeline):
    """Text in, generated text out: `pipeline("text2text-generation", model=...)`.

    A blank text gives a blank text. A text longer than the model's positions is an error, raised before any
    work when the inputs are a list; a text longer than the model was made for is generated from, with a
    warning. `pipe.counts` says how many there were of either; `truncation=True` cuts them to fit.

    Args (at construction or at each call):
        truncation: whether to cut texts to the longest input of the model; never done unasked.
        return_tensors: `*_token_ids` instead of `*_text`, or beside it with `return_text=True`.
        clean_up_tokenization_spaces: whether to remove spaces before punctuation from the decoded text.
        stop_sequence: a string after which generation ends.
        batch_size: texts per call of the model, 1 by default.
        and every argument of `generate`. Where neither the caller nor the model's generation config says
        otherwise: 4 beams, at most 256 new tokens.

    Returns:
        for a text, `[{"generated_text": ...}]`; for a list of texts, a list of dicts, or of lists of dicts
        with `num_return_sequences`; for a generator or a dataset, an iterator of lists of dicts.
    """

    _load_processor = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = True
    _pipeline_calls_generate = True
    _default_generation_config = GenerationConfig(max_new_tokens=256, num_beams=4)
    return_name = "generated"

    def __init__(self, model, tokenizer=None, *args, task: str = "", **kwargs):
        if not (model.config.is_encoder_decoder and model.can_generate()):
            raise ValueError(
                f"{type(self).__name__} needs an encoder-decoder model with a language modeling head, "
                f"such as AutoModelForSeq2SeqLM loads; {type(model).__name__} is none"
            )
        self.counts = Counter()
        self.positions = table_of_positions(model)
        self.longest_input = min(self.positions, intended_length(model, tokenizer))
        # T5 and BART keep decoding settings, and the prompt that selects the task, by the task's name.
        by_task = dict((getattr(model.config, "task_specific_params", None) or {}).get(task, {}))
        prefix = by_task.pop("prefix", None)
        super().__init__(model, tokenizer, *args, task=task, **{**by_task, **kwargs})
        self.prefix = prefix or self.prefix or ""

    def _sanitize_parameters(
        self,
        truncation=None,
        return_tensors: bool | None = None,
        return_text: bool | None = None,
        clean_up_tokenization_spaces: bool | None = None,
        stop_sequence: str | None = None,
        **generate_kwargs,
    ):
        preprocess = {"truncation": truncation}
        postprocess = {
            "return_tensors": return_tensors,
            "return_text": return_text,
            "clean_up_tokenization_spaces": clean_up_tokenization_spaces,
        }
        if stop_sequence is not None:
            generate_kwargs |= {"stop_strings": stop_sequence, "tokenizer": self.tokenizer}
        if self.assistant_model is not None:
            generate_kwargs["assistant_model"] = self.assistant_model
        if self.assistant_tokenizer is not None:
            generate_kwargs |= {"tokenizer": self.tokenizer, "assistant_tokenizer": self.assistant_tokenizer}
        return given(preprocess), generate_kwargs, given(postprocess)

    def __call__(self, inputs, *args, num_workers=None, batch_size=None, **kwargs):
        if isinstance(inputs, Sequence) and not isinstance(inputs, str):
            inputs = list(inputs)
            if not inputs:
                return []
            self._refuse_bad(inputs, **kwargs)
        results = super().__call__(inputs, *args, num_workers=num_workers, batch_size=batch_size, **kwargs)
        if isinstance(inputs, list) and all(len(result) == 1 for result in results):
            return [result[0] for result in results]
        return results

    def _refuse_bad(self, texts: list, **kwargs):
        """Raises ValueError naming the texts that cannot be read, before the work on the others starts."""
        options = {**self._preprocess_params, **self._sanitize_parameters(**kwargs)[0]}
        errors = []
        for index, text in enumerate(texts):
            try:
                self.encode(text, **options)
            except (TypeError, ValueError) as error:
                errors.append(f"input {index}: {error}")
        if errors:
            more = f"\nand {len(errors) - 5} more" if len(errors) > 5 else ""
            raise ValueError("\n".join(errors[:5]) + more)

    def preprocess(self, text: str, **options) -> dict[str, Any]:
        inputs = self.encode(text, **options)
        blank = not text.strip()
        if blank:
            self._count("blank inputs", text, "their output is blank")
        elif inputs["input_ids"].shape[1] > self.longest_input:
            limit = f"the model is made for {self.longest_input} tokens"
            self._count("long inputs", text, f"{limit}; truncation=True cuts them")
        return {**inputs, "blank": torch.tensor([blank])}

    def encode(self, text: str, truncation=False, **languages) -> dict[str, Any]:
        """Ids and mask `(1, length)`; raises if it is no text or has more tokens than there are positions."""
        if not isinstance(text, str):
            hint = "; KeyDataset(dataset, column) of transformers picks a column" * isinstance(text, dict)
            raise TypeError(f"expected a string, got {type(text).__name__} {str(text)[:60]}{hint}")
        text = self.prefix + (text if text.strip() else STAND_IN)
        limit = self.longest_input if truncation and math.isfinite(self.longest_input) else None
        inputs = self.tokenize(
            text, truncation=truncation, max_length=limit, return_tensors="pt", verbose=False, **languages
        )
        length = inputs["input_ids"].shape[1]
        if length > self.positions:
            raise ValueError(
                f"{length} tokens, but the model has positions for {self.positions}; "
                f"split the text, or pass truncation=True to cut it: {text[:60]!r}..."
            )
        return {name: value for name, value in inputs.items() if name != "token_type_ids"}

    def tokenize(self, text: str, **kwargs):
        return self.tokenizer(text, **kwargs)

    def _count(self, what: str, text: str, consequence: str):
        """Counts, and warns of the 1st, 10th, 100th, ... so that a large run stays readable."""
        self.counts[what] += 1
        if str(self.counts[what]).rstrip("0") == "1":
            logger.warning(f"{what}: {self.counts[what]} so far, {consequence}. This one: {text[:60]!r}")

    def _forward(self, model_inputs: dict, **generate_kwargs) -> dict[str, torch.Tensor]:
        blank = model_inputs.pop("blank")
        batch, input_length = model_inputs["input_ids"].shape
        self.check_inputs(input_length, *self._output_lengths(generate_kwargs))
        # What a tokenizer adds for `generate`, such as the language's first token, comes once per text.
        model_inputs = {k: v[0] if isinstance(v, list) else v for k, v in model_inputs.items()}
        output = self.model.generate(**model_inputs, **self._prepare_generate_kwargs(generate_kwargs))
        ids = output.sequences if isinstance(output, ModelOutput) else output
        return {"output_ids": ids.unflatten(0, (batch, -1)), "blank": blank}  # (batch, sequences, length)

    def _output_lengths(self, generate_kwargs: dict) -> tuple[int, int | None]:
        """The shortest and longest output, in tokens, that the caller or the model's settings ask for."""
        if "generation_config" not in generate_kwargs:
            generate_kwargs = {**self._generate_kwargs, **generate_kwargs}
        asked = self._get_set_generation_params(generate_kwargs)
        if asked.get("max_extra_tokens") is not None:  # the model's own limit goes with the input's length
            asked = generate_kwargs
        shortest = asked.get("min_new_tokens") or asked.get("min_length") or 0
        return shortest, asked.get("max_new_tokens") or asked.get("max_length")

    def check_inputs(self, input_length: int, min_length: int, max_length: int | None):
        """Warns of lengths, in tokens, that cannot be meant; `max_length` is None where none was asked."""
        if max_length is not None and max_length < min_length:
            logger.warning(f"min_length={min_length} is more than max_length={max_length}")

    def postprocess(
        self,
        model_outputs: dict,
        return_tensors: bool = False,
        return_text: bool | None = None,
        clean_up_tokenization_spaces: bool = False,
    ) -> list[dict]:
        records = []
        for ids in model_outputs["output_ids"][0]:  # (length,)
            if model_outputs["blank"][0]:
                ids = ids[:0]
            record = {}
            if return_tensors:
                record[f"{self.return_name}_token_ids"] = ids
            if return_text or (return_text is None and not return_tensors):
                record[f"{self.return_name}_text"] = self.tokenizer.decode(
                    ids, skip_special_tokens=True, clean_up_tokenization_spaces=clean_up_tokenization_spaces
                )
            records.append(record)
        return records


class SummarizationPipeline(Text2TextGenerationPipeline):
    """A shorter text that says the same: `pipeline("summarization", model=...)`; key `summary_text`."""

    return_name = "summary"

    def check_inputs(self, input_length: int, min_length: int, max_length: int | None):
        super().check_inputs(input_length, min_length, max_length)
        if max_length is not None and input_length < max_length:
            logger.warning(
                f"max_length={max_length}, but the input has only {input_length} tokens: a summary is "
                f"usually shorter than its text, so consider max_length={input_length // 2}"
            )


class TranslationPipeline(Text2TextGenerationPipeline):
    """The text in another language: `pipeline("translation", model=...)`; key `translation_text`.

    Args:
        src_lang, tgt_lang: the languages, where the tokenizer marks them; the task `translation_en_to_es`
            says the same as `src_lang="en", tgt_lang="es"`.
    """

    return_name = "translation"

    def __init__(self, model, tokenizer=None, *args, task: str = "translation", **kwargs):
        by_task = getattr(model.config, "task_specific_params", None) or {}
        named = [name for name in by_task if LANGUAGE_PAIR.fullmatch(name)]
        if task == "translation" and named:
            task = named[0]
            logger.warning(f"the model translates {', '.join(named)}: taking {task}")
        pair = LANGUAGE_PAIR.fullmatch(task)
        if pair and marks_languages(tokenizer):
            kwargs = {"src_lang": pair[1], "tgt_lang": pair[2], **kwargs}
        super().__init__(model, tokenizer, *args, task=task, **kwargs)

    def _sanitize_parameters(self, src_lang: str | None = None, tgt_lang: str | None = None, **kwargs):
        preprocess, forward, postprocess = super()._sanitize_parameters(**kwargs)
        languages = given({"src_lang": src_lang, "tgt_lang": tgt_lang})
        if languages and not marks_languages(self.tokenizer):
            raise ValueError(f"{languages} cannot be chosen: the model's tokenizer marks no languages")
        return {**preprocess, **languages}, forward, postprocess

    def check_inputs(self, input_length: int, min_length: int, max_length: int | None):
        super().check_inputs(input_length, min_length, max_length)
        if max_length is not None and input_length > 0.9 * max_length:
            logger.warning(
                f"max_length={max_length} may cut the translation short: the input has {input_length} tokens"
            )

    def tokenize(self, text: str, src_lang: str | None = None, tgt_lang: str | None = None, **kwargs):
        if hasattr(self.tokenizer, "_build_translation_inputs"):  # mBART, NLLB, M2M100
            build = self.tokenizer._build_translation_inputs
            return build(text, src_lang=src_lang, tgt_lang=tgt_lang, **kwargs)
        if tgt_lang is not None:
            kwargs["target_language"] = tgt_lang
        elif marks_languages(self.tokenizer) and self.tokenizer.target_language is None:
            raise ValueError(f"translate into what? tgt_lang is one of {', '.join(self.tokenizer.languages)}")
        return self.tokenizer(text, **kwargs)


def given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that the caller gave."""
    return {name: value for name, value in options.items() if value is not None}


def marks_languages(tokenizer) -> bool:
    """Whether the tokenizer can name a language, in transformers' way or with this package's `<2es>`."""
    return hasattr(tokenizer, "_build_translation_inputs") or bool(getattr(tokenizer, "languages", None))


def intended_length(model, tokenizer) -> float:
    """Source tokens that model and tokenizer are made for, infinite where neither says."""
    stated = [tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None)]
    return min((length for length in stated if length and length < VERY_LARGE_INTEGER), default=math.inf)


def table_of_positions(model) -> float:
    """Rows of the encoder's table of positions, where it ends; infinite where positions are computed."""
    tables = [
        module
        for name, module in model.get_encoder().named_modules()
        if "position" in name and isinstance(module, nn.Embedding)
    ]
    return min((table.num_embeddings - getattr(table, "offset", 0) for table in tables), default=math.inf)


class TranslationRegistry(PipelineRegistry):
    """transformers' registry of tasks, which also knows `translation_xx_to_yy` for any two languages."""

    def check_task(self, task: str) -> tuple[str, dict, Any]:
        pair = LANGUAGE_PAIR.fullmatch(task)
        if pair is None:
            return super().check_task(task)
        _, entry, _ = super().check_task("translation")
        return "translation", entry, pair.groups()


# The models that transformers 4 took when none was named.
T5 = {"model": ("google-t5/t5-base", "a9723ea")}
DISTILBART = {"model": ("sshleifer/distilbart-cnn-12-6", "a4f8f3e")}
TASKS = {
    "translation": (TranslationPipeline, dict.fromkeys([("en", "fr"), ("en", "de"), ("en", "ro")], T5)),
    "summarization": (SummarizationPipeline, DISTILBART),
    "text2text-generation": (Text2TextGenerationPipeline, T5),
}

# What config.json says, so that a folder brings its pipelines along for trust_remote_code.
CUSTOM_PIPELINES = {
    task: {"impl": f"pipelines.{pipeline_class.__name__}", "pt": ["AutoModelForSeq2SeqLM"], "type": "text"}
    for task, (pipeline_class, _) in TASKS.items()
}


def register_pipelines():
    """Gives `transformers.pipeline` the tasks of this file; a second call changes nothing."""
    for task, (pipeline_class, default) in TASKS.items():
        getattr(stock_pipelines, "REMOVED_TASKS", {}).pop(task, None)  # not in transformers 5.17
        PIPELINE_REGISTRY.supported_tasks[task] = {
            "impl": pipeline_class,
            "pt": (AutoModelForSeq2SeqLM,),
            "default": default,
            "type": "text",
        }
    PIPELINE_REGISTRY.__class__ = TranslationRegistry


__all__ = [
    "SummarizationPipeline",
    "Text2TextGenerationPipeline",
    "TranslationPipeline",
    "register_pipelines",
]
