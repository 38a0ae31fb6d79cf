"""The pipelines that transformers 5 removed: translation, summarization, text2text-generation.

They work with any encoder-decoder model, and keep the options and output keys of transformers 4.
"""

import copy
import importlib
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from transformers import BatchEncoding, Pipeline
from transformers.pipelines.base import load_assistant_model
from transformers.utils import ModelOutput, logging

from .config_checks import check_generation_settings, is_whole
from .ensembles import load_ensemble
from .pipeline_batches import (
    OWN_OPTIONS,
    SCORES,
    arguments_for_terms,
    forced_outputs,
    forced_records,
    has_language_tokens,
    intended_length,
    number_of_positions,
    of_similar_length,
    phrases_of,
    scores_of_outputs,
    with_minimum_risk,
    with_terms,
    without_none,
)

logger = logging.get_logger(__name__)

LANGUAGE_PAIR = re.compile(r"translation_(.+?)_to_(.+)")
DEFAULTS = {"max_new_tokens": 256, "num_beams": 4}  # transformers' own defaults for these pipelines
TOKENS = 2048  # of source texts in a batch, if nothing else is asked for
LARGEST_BATCH, MOST_WORKERS = 100_000, 256
STAND_IN = "."  # replaces a blank text in the batch; its output is discarded


class Text2TextGenerationPipeline(Pipeline):
    """Generates a text from each text: `pipeline("text2text-generation", model=...)`.

        pipe = pipeline("text2text-generation", model="outputs/my_model")
        pipe("A dog.")  # [{"generated_text": "…"}]

    The output for a blank text is blank. A text with more tokens than the model has positions raises
    ValueError; in a list, before the work on the other texts starts. If the model computes its positions, a
    text longer than it was trained for is not cut but logs a warning. `pipe.counts` counts the blank and the
    long texts.

    Args (at construction or at each call):
        truncation: cut long texts to the longest input of the model.
        return_tensors: return `*_token_ids` instead of `*_text`, or both with `return_text=True`.
        clean_up_tokenization_spaces: remove spaces before punctuation from the decoded text.
        stop_sequence: a string after which generation ends.
        ensemble (at construction): folders of models with the same vocabulary, which generate together with
            this one. Alignments are of the first model.
        batch_size: texts per call of the model. By default a list is cut into batches of 2,048 tokens, and
            an iterator or a data set into batches of 1. Texts of a list share a batch with those of similar
            length; the results are in the order of the list.
        return_dict_in_generate: with it, a record also has what else these settings ask for:
            `sequences_scores` (a number, of beam search), and with `output_scores` or `output_logits`,
            `scores` and `logits`, `(tokens, vocabulary)`, of the steps that wrote the output.
        terms: translations that an output must have, `{"bank": "Ufer"}`, or a list of such dicts for a list
            of texts. A term applies to texts with its source; see `find_terms`. Only models
            of this package have them, with `num_beams > 1`.
        forbid: words and phrases that no output has; see `ForbiddenTerms`.
        mbr: return one of the `num_return_sequences` outputs of a text, at least 2, that with minimum Bayes
            risk by chrF. Its record has `utility`, the mean chrF. It needs the extra [metrics].
        return_scores: a record also has `log_probability`, `score` (s(Y, X), with the length penalty of the
            search) and `token_log_probabilities`, whose last one is that of the end token.
        return_alignments: a record also has `alignment`: "0-0 2-1" links words 0 and 0, and 2 and 1, of the
            text and the output; `split_words` returns these words.
        markup: (of a call) keep the tags and placeholders of texts; see `documents.translate_markup`.
        generate_kwargs: any argument of `generate`. The defaults, for settings that neither the caller nor
            the model's generation config sets, are 4 beams and at most 256 new tokens.

    Returns:
        for one text, `[{"generated_text": ...}]`; for a list of texts, a list of dicts (with
        `num_return_sequences`, of lists of dicts); for a generator or a data set, an iterator over lists.
    """

    _load_processor: Any = False
    _load_image_processor: Any = False
    _load_video_processor: Any = False
    _load_feature_extractor: Any = False
    _load_tokenizer: Any = True
    _pipeline_calls_generate = False  # True makes some versions treat generate's arguments differently
    return_name = "generated"
    model: Any
    tokenizer: Any
    prefix: str

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        task: str = "",
        assistant_model: Any = None,
        assistant_tokenizer: Any = None,
        ensemble: Sequence[Any] = (),
        **kwargs: Any,
    ):
        if not (model.config.is_encoder_decoder and model.can_generate()):
            raise ValueError(
                f"{type(self).__name__} needs an encoder-decoder model with a language modeling head, but "
                f"{type(model).__name__} is not one; load the model with AutoModelForSeq2SeqLM"
            )
        self.counts: Counter[str] = Counter()
        self.positions = number_of_positions(model)
        self.longest_input = min(self.positions, intended_length(model, tokenizer))
        # T5 and BART store decoding settings, and the prompt that selects the task, under the task's name.
        by_task = dict((getattr(model.config, "task_specific_params", None) or {}).get(task, {}))
        prefix = by_task.pop("prefix", None)
        self.prefix = prefix or getattr(model.config, "prefix", None) or ""
        super().__init__(model, tokenizer, task=task, **{**by_task, **kwargs})
        options = self._forward_params
        self._forward_params = {name: options.pop(name) for name in OWN_OPTIONS & options.keys()}
        self.generate_kwargs = options
        self.ensemble = load_ensemble(self.model, self.tokenizer, ensemble) if ensemble else []
        self.assistant_model, self.assistant_tokenizer = load_assistant_model(
            model, assistant_model, assistant_tokenizer
        )

    def _sanitize_parameters(
        self,
        *,
        truncation: bool | str | None = None,
        return_tensors: bool | None = None,
        return_text: bool | None = None,
        clean_up_tokenization_spaces: bool | None = None,
        stop_sequence: str | None = None,
        terms: Any = None,
        mbr: bool | None = None,
        **generate_kwargs: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        preprocess = {"truncation": truncation, "terms": terms}
        postprocess = {
            "return_tensors": return_tensors,
            "return_text": return_text,
            "clean_up_tokenization_spaces": clean_up_tokenization_spaces,
            "mbr": mbr,
        }
        if stop_sequence is not None:
            generate_kwargs |= {"stop_strings": stop_sequence, "tokenizer": self.tokenizer}
        return without_none(preprocess), generate_kwargs, without_none(postprocess)

    def __call__(
        self,
        inputs: Any,
        *args: Any,
        num_workers: int | None = None,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> Any:
        for name, value, limit in (
            ("batch_size", batch_size, LARGEST_BATCH),
            ("num_workers", num_workers, MOST_WORKERS),
        ):
            least = int(name == "batch_size")
            if value is not None and not (is_whole(value) and least <= value <= limit):
                raise ValueError(f"{name}={value!r} must be a whole number from {least} to {limit}")
        if kwargs.pop("markup", False):
            documents = importlib.import_module("vanilla_transformer.documents")  # not in a Hub copy
            return documents.records_with_markup(self, inputs, batch_size=batch_size, **kwargs)
        if not isinstance(inputs, Sequence) or isinstance(inputs, str):
            return super().__call__(inputs, *args, num_workers=num_workers, batch_size=batch_size, **kwargs)
        texts = with_terms(list(inputs), kwargs)
        results: dict[int, Any] = {}
        lengths = self._lengths(texts, **kwargs)
        most = batch_size or self._batch_size
        if most is None and self._depends_on_batch(kwargs):
            most = 1
        for batch in of_similar_length(lengths, most, TOKENS):
            self.call_count = 0  # transformers takes many calls for a mistake
            of_batch = super().__call__(
                [texts[index] for index in batch],
                *args,
                num_workers=num_workers,
                batch_size=len(batch),
                **kwargs,
            )
            results |= zip(batch, of_batch)
        ordered = [results[index] for index in range(len(texts))]
        return [result[0] for result in ordered] if all(len(result) == 1 for result in ordered) else ordered

    def _depends_on_batch(self, options: dict[str, Any]) -> bool:
        """Whether results show in which batch they were: random numbers, padding of ids and scores."""
        options = {**self._postprocess_params, **self.generate_kwargs, **options}
        settings = options.get("generation_config") or self.model.generation_config
        names = ("do_sample", "return_dict_in_generate", "return_tensors")
        return any(options.get(name, getattr(settings, name, None)) for name in names)

    def _lengths(self, texts: list, /, **kwargs: Any) -> list[int]:
        """The lengths of texts in tokens; raises ValueError that lists all texts which cannot be encoded."""
        options = {**self._preprocess_params, **self._sanitize_parameters(**kwargs)[0]}
        options.pop("terms", None)
        lengths, errors = [], []
        for index, text in enumerate(texts):
            try:
                lengths.append(self.encode(text, **options)["input_ids"].shape[1])
            except (TypeError, ValueError) as error:
                errors.append(f"input {index}: {error}")
        if errors:
            more = f"\nand {len(errors) - 5} more" if len(errors) > 5 else ""
            raise ValueError("\n".join(errors[:5]) + more)
        return lengths

    def preprocess(self, input_: str, terms: Any = None, **options: Any) -> dict[str, Any]:
        inputs = self.encode(input_, **options)
        blank = not input_.strip()
        if blank:
            self._count("blank inputs", input_, "whose output is blank")
        elif inputs["input_ids"].shape[1] > self.longest_input:
            limit = f"longer than the model's {self.longest_input} tokens"
            self._count("long inputs", input_, f"{limit}; pass truncation=True to cut them")
        found = phrases_of(self.model, self.tokenizer, input_, terms)
        return {**inputs, **found, "blank": torch.tensor([blank])}

    def encode(self, text: str, truncation: bool | str = False, **languages: str) -> dict[str, Any]:
        """Ids and mask `(1, length)`; raises if it is not a string, or longer than the table of positions."""
        if not isinstance(text, str):
            hint = "; use transformers' KeyDataset(dataset, column) to read a column" * isinstance(text, dict)
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

    def tokenize(self, text: str, **kwargs: Any) -> BatchEncoding:
        return self.tokenizer(text, **kwargs)

    def _count(self, what: str, text: str, consequence: str) -> None:
        if self._is_due(what):
            logger.warning(f"{self.counts[what]} {what} so far, {consequence}. The last one: {text[:60]!r}")

    def _is_due(self, what: str) -> bool:
        """Counts, and returns whether to log the 1st, 10th, 100th, …: a large run stays readable."""
        self.counts[what] += 1
        return str(self.counts[what]).rstrip("0") == "1"

    def _forward(  # type: ignore[override]  # the base class allows any option
        self,
        input_tensors: dict[str, Any],
        return_scores: bool = False,
        return_alignments: bool = False,
        forbid: Sequence[str] = (),
        **generate_kwargs: Any,
    ) -> Any:
        blank = input_tensors.pop("blank")
        batch, input_length = input_tensors["input_ids"].shape
        if "generation_config" not in generate_kwargs:  # it replaces the constructor's arguments
            generate_kwargs = {**self.generate_kwargs, **generate_kwargs}
        if self.ensemble:
            generate_kwargs["ensemble"] = self.ensemble
        generate_kwargs |= arguments_for_terms(self.tokenizer, input_tensors, forbid, generate_kwargs)
        chosen = self._chosen_settings(generate_kwargs)
        check_generation_settings(chosen, getattr(self.model.config, "max_position_embeddings", None))
        self.check_inputs(input_length, *self._output_lengths(chosen, generate_kwargs))
        # A tokenizer may add arguments of `generate`, such as the language's first token, once per text.
        model_inputs = {k: v[0] if isinstance(v, list) else v for k, v in input_tensors.items()}
        output = self.model.generate(**model_inputs, **self._with_defaults(generate_kwargs, chosen))
        ids = output["sequences"] if isinstance(output, ModelOutput) else output
        scores = scores_of_outputs(output) if isinstance(output, ModelOutput) else {}
        outputs = {"output_ids": ids, **scores}
        outputs |= forced_outputs(self.model, model_inputs, ids, chosen, return_scores, return_alignments)
        return {name: rows.unflatten(0, (batch, -1)) for name, rows in outputs.items()} | {"blank": blank}

    def _chosen_settings(self, generate_kwargs: dict[str, Any]) -> dict[str, Any]:
        """Returns the settings that the caller or else the model's generation config chose."""
        chosen = self.model.generation_config.to_diff_dict()
        if (generation_config := generate_kwargs.get("generation_config")) is not None:
            chosen |= generation_config.to_diff_dict()
        return chosen | generate_kwargs

    def _with_defaults(self, generate_kwargs: dict[str, Any], chosen: dict[str, Any]) -> dict[str, Any]:
        """Returns the arguments of `generate`: the caller's, and this pipeline's defaults for the rest."""
        defaults: dict[str, Any] = {**DEFAULTS, "pad_token_id": self.tokenizer.pad_token_id}
        if "max_length" in chosen:  # max_new_tokens would override it
            del defaults["max_new_tokens"]
        defaults = without_none({name: defaults[name] for name in defaults.keys() - chosen.keys()})
        if self.assistant_model is not None:
            generate_kwargs = {**generate_kwargs, "assistant_model": self.assistant_model}
        if self.assistant_tokenizer is not None:
            tokenizers = {"tokenizer": self.tokenizer, "assistant_tokenizer": self.assistant_tokenizer}
            generate_kwargs = {**generate_kwargs, **tokenizers}
        if (generation_config := generate_kwargs.get("generation_config")) is None:
            return {**generate_kwargs, **defaults}
        generation_config = copy.deepcopy(generation_config)  # generate deprecates it beside other settings
        generation_config.update(**defaults)
        return {**generate_kwargs, "generation_config": generation_config}

    def _output_lengths(
        self, chosen: dict[str, Any], generate_kwargs: dict[str, Any]
    ) -> tuple[int, int | None]:
        """The minimal and maximal output, in tokens, that the caller or the model's settings set."""
        if chosen.get("max_extra_tokens") is not None:  # the model's limit follows the input's length
            chosen = generate_kwargs
        shortest = chosen.get("min_new_tokens") or chosen.get("min_length") or 0
        return shortest, chosen.get("max_new_tokens") or chosen.get("max_length")

    def check_inputs(self, input_length: int, min_length: int, max_length: int | None) -> None:
        """Warns if the lengths, in tokens, are probably a mistake; `max_length` is None if nobody set it."""
        if max_length is not None and max_length < min_length and self._is_due("contradicting lengths"):
            logger.warning(f"min_length={min_length} is more than max_length={max_length}")

    def postprocess(  # type: ignore[override]  # the base class allows any option
        self,
        model_outputs: Any,
        return_tensors: bool = False,
        return_text: bool | None = None,
        clean_up_tokenization_spaces: bool = False,
        mbr: bool = False,
    ) -> list[dict[str, Any]]:
        records, texts = [], []
        for index, ids in enumerate(model_outputs["output_ids"][0]):  # (length,)
            if model_outputs["blank"][0]:
                ids = ids[:0]
            record: dict[str, Any] = {}
            if return_tensors:
                record[f"{self.return_name}_token_ids"] = ids
            text = self.tokenizer.decode(
                ids, skip_special_tokens=True, clean_up_tokenization_spaces=clean_up_tokenization_spaces
            )
            texts.append(text)
            if return_text or (return_text is None and not return_tensors):
                record[f"{self.return_name}_text"] = text
            for name in SCORES:
                if name in model_outputs:
                    value = model_outputs[name][0][index]
                    record[name] = value if value.dim() else float(value)
            record |= forced_records(self.tokenizer, model_outputs, index, self.prefix)
            records.append(record)
        return with_minimum_risk(records, texts) if mbr else records


class SummarizationPipeline(Text2TextGenerationPipeline):
    """Summarizes texts: `pipeline("summarization", model=...)`; the key is `summary_text`."""

    return_name = "summary"

    def check_inputs(self, input_length: int, min_length: int, max_length: int | None) -> None:
        super().check_inputs(input_length, min_length, max_length)
        if max_length is not None and input_length < max_length and self._is_due("short inputs"):
            logger.warning(
                f"max_length={max_length}, but the input has only {input_length} tokens and a summary is "
                f"usually shorter; consider max_length={input_length // 2}"
            )


class TranslationPipeline(Text2TextGenerationPipeline):
    """Translates texts: `pipeline("translation", model=...)`; the key is `translation_text`.

    Args:
        src_lang, tgt_lang: the languages, for tokenizers with language tokens. The task name
            `translation_en_to_es` means `src_lang="en", tgt_lang="es"`.
    """

    return_name = "translation"

    def __init__(self, model: Any, tokenizer: Any = None, *, task: str = "translation", **kwargs: Any):
        by_task = getattr(model.config, "task_specific_params", None) or {}
        named = [name for name in by_task if LANGUAGE_PAIR.fullmatch(name)]
        if task == "translation" and named:
            task = named[0]
            logger.warning(f"The model's tasks are {', '.join(named)}; this pipeline uses {task}")
        pair = LANGUAGE_PAIR.fullmatch(task)
        if pair and has_language_tokens(tokenizer):
            kwargs = {"src_lang": pair[1], "tgt_lang": pair[2], **kwargs}
        super().__init__(model, tokenizer, task=task, **kwargs)

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        languages = without_none({name: kwargs.pop(name, None) for name in ("src_lang", "tgt_lang")})
        preprocess, forward, postprocess = super()._sanitize_parameters(**kwargs)
        if languages and not has_language_tokens(self.tokenizer):
            shown = ", ".join(f"{name}={language!r}" for name, language in languages.items())
            raise ValueError(f"the model's tokenizer has no language tokens: remove {shown}")
        return {**preprocess, **languages}, forward, postprocess

    def check_inputs(self, input_length: int, min_length: int, max_length: int | None) -> None:
        super().check_inputs(input_length, min_length, max_length)
        if max_length is not None and input_length > 0.9 * max_length and self._is_due("close limits"):
            logger.warning(
                f"max_length={max_length} may cut the translation: the input has {input_length} tokens"
            )

    def tokenize(
        self, text: str, src_lang: str | None = None, tgt_lang: str | None = None, **kwargs: Any
    ) -> BatchEncoding:
        if hasattr(self.tokenizer, "_build_translation_inputs"):  # mBART, NLLB, M2M100
            build = self.tokenizer._build_translation_inputs
            return build(text, src_lang=src_lang, tgt_lang=tgt_lang, **kwargs)
        if tgt_lang is not None:
            kwargs["target_language"] = tgt_lang
        elif has_language_tokens(self.tokenizer) and self.tokenizer.target_language is None:
            known = ", ".join(map(repr, self.tokenizer.languages))
            raise ValueError(f"the target language is missing: pass tgt_lang, one of {known}")
        return self.tokenizer(text, **kwargs)


__all__ = [
    "SummarizationPipeline",
    "Text2TextGenerationPipeline",
    "TranslationPipeline",
]
