"""`generate` with the paper's decoding (section 6.1): beam search, and a length limit for each sentence."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers import GenerationConfig, GenerationMixin, PreTrainedConfig
from transformers.generation import (
    EosTokenCriteria,
    GenerationMode,
    LogitsProcessorList,
    StoppingCriteriaList,
)
from transformers.utils import logging

from .config_checks import check_generation_settings
from .decoding import Decoding, StaticDecoding, is_static
from .ensembles import EnsembleSteps, check_ensemble, encoded
from .layers import own_cache
from .plain_steps import PlainSteps, attention_to_source
from .prepared import PRECISIONS, is_in_training, prepared_decoder, why_not_prepared
from .search_loop import other_criteria, run_search
from .searches import (
    EndAtLimit,
    Settings,
    needs_all_rows,
    output_limits,
    see_rows,
    take_groups,
    uses_own_search,
    with_own_processors,
)
from .shortcuts import needs_own_forward, without_padding

logger = logging.get_logger(__name__)
SETTINGS = ("length_penalty_type", "coverage_penalty", "max_extra_tokens", "terms", "ensemble")
GROUPS = ("num_beam_groups", "diversity_penalty")
CHECK_EVERY = 8  # steps on a GPU, where a look at the tokens waits for the device
FAST_MODES = (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE, GenerationMode.BEAM_SEARCH)


def paper_generation_config(config: PreTrainedConfig) -> GenerationConfig:
    """Section 6.1 for models of this configuration: 4 beams, α = 0.6, at most input + 50 tokens.

    Example:
        >>> settings = paper_generation_config(config)
        >>> settings.num_beams, settings.length_penalty, settings.max_extra_tokens
        (4, 0.6, 50)
    """
    return GenerationConfig(
        num_beams=4,
        length_penalty_type="gnmt",
        length_penalty=0.6,
        max_extra_tokens=50,
        max_length=config.max_position_embeddings,
        bos_token_id=config.bos_token_id,
        pad_token_id=config.pad_token_id,
        eos_token_id=config.eos_token_id,
        decoder_start_token_id=config.decoder_start_token_id if config.is_encoder_decoder else None,
    )


class PaperGenerationMixin(GenerationMixin):
    """`generate` with more settings, which are entries of `GenerationConfig` or arguments:

    - `length_penalty_type="gnmt"`: with `num_beams > 1`, search with `BeamSearch`; `length_penalty` is its α.
      `early_stopping=True` means the same as in transformers. Otherwise transformers' own methods run.
    - `coverage_penalty`: β (0.2 in Wu et al.). p_ij is the cross-attention of the last decoder layer, the
      mean over its heads.
    - `max_extra_tokens`: an output has at most this many tokens more than its input, counting end tokens and
      ignoring padding. This limit also applies to greedy search and sampling.
    - `num_beam_groups`, `diversity_penalty`: as in transformers 4; see `DiverseBeamSearch`.
    - `terms`, an argument only: what the outputs must contain, from `find_terms`; it needs `num_beams > 1`.
    - `ensemble`, an argument only: other models with the same vocabulary. The probability of a token is the
      mean over this model and them.
    """

    config: Any  # the model has these
    model: Any
    __call__: Callable[..., Any]

    def _prepare_generation_config(
        self, generation_config: GenerationConfig | None, **kwargs: Any
    ) -> tuple[GenerationConfig, dict]:
        arguments = {name: kwargs.pop(name) for name in (*SETTINGS, *GROUPS) if name in kwargs}
        generation_config, model_kwargs = super()._prepare_generation_config(generation_config, **kwargs)
        for name in (*SETTINGS, *GROUPS):
            setattr(generation_config, name, arguments.get(name, getattr(generation_config, name, None)))
        self._check_settings(generation_config)
        check_ensemble(self, generation_config, model_kwargs)
        take_groups(generation_config)
        return generation_config, model_kwargs

    def _validate_generation_mode(
        self, generation_mode: GenerationMode, generation_config: Settings, *args: Any, **kwargs: Any
    ) -> None:
        if generation_config.ensemble and generation_mode not in FAST_MODES:
            raise ValueError(
                f"an ensemble takes greedy search, sampling or beam search, not {generation_mode.value}"
            )
        super()._validate_generation_mode(generation_mode, generation_config, *args, **kwargs)

    def _check_settings(self, settings: Settings) -> None:
        kind, beta, extra, terms = (getattr(settings, name) for name in SETTINGS[:4])
        check_generation_settings(vars(settings), self.config.max_position_embeddings)
        if settings.length_penalty is not None:
            settings.length_penalty = float(settings.length_penalty)  # a power of integers can be too large
        if kind not in (None, "gnmt"):
            raise ValueError(
                f"length_penalty_type={kind!r} is unknown: use 'gnmt', or None for transformers' own penalty"
            )
        if not settings.num_beams >= 1:
            raise ValueError(f"num_beams={settings.num_beams} must be at least 1")
        if uses_own_search(settings) and settings.do_sample:
            raise ValueError(
                "length_penalty_type='gnmt' cannot sample: for do_sample=True, set num_beams=1 or "
                "length_penalty_type=None"
            )
        if beta is not None and not (isinstance(beta, (int, float)) and 0 <= beta < math.inf):
            raise ValueError(f"coverage_penalty={beta!r} must be a number that is not negative")
        if beta and not (uses_own_search(settings) and self.config.is_encoder_decoder):
            raise ValueError(
                f"coverage_penalty={beta} needs length_penalty_type='gnmt' (here {kind!r}), num_beams > 1 "
                f"(here {settings.num_beams}) and an encoder-decoder model (here {type(self).__name__})"
            )
        if extra is not None and not (isinstance(extra, int) and extra >= 0):
            raise ValueError(f"max_extra_tokens={extra!r} must be a whole number that is not negative")
        if terms is not None and (settings.num_beams == 1 or settings.do_sample):
            raise ValueError("terms needs beam search: set num_beams to 4 or more, and do_sample=False")
        if terms is not None and not any(terms.phrases):
            settings.terms = None  # no sentence has one

    def _prepare_generated_length(
        self,
        generation_config: Settings,
        has_default_max_length: bool,
        inputs_tensor: torch.Tensor,
        input_ids_length: int,
        **kwargs: Any,
    ) -> GenerationConfig:
        """Lowers `max_length` to the longest limit of the batch, which also replaces the default of 20."""
        extra, max_new_tokens = generation_config.max_extra_tokens, generation_config.max_new_tokens
        # If False, transformers warns that max_new_tokens overrides the max_length of the model's settings.
        keep_quiet = extra is not None and max_new_tokens is not None
        generation_config = super()._prepare_generated_length(
            generation_config=generation_config,
            has_default_max_length=has_default_max_length or keep_quiet,
            inputs_tensor=inputs_tensor,
            input_ids_length=input_ids_length,
            **kwargs,
        )
        if extra is None:
            return generation_config
        longest = input_ids_length + max(1, inputs_tensor.shape[1] + extra)
        if has_default_max_length and max_new_tokens is None:
            generation_config.max_length = min(longest, self.config.max_position_embeddings)
            generation_config.max_new_tokens = generation_config.max_length - input_ids_length
        generation_config.max_length = min(generation_config.max_length, longest)
        return generation_config

    def _prepare_text_encoder_decoder_kwargs_for_generation(
        self, inputs_tensor: torch.Tensor, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        """Lets the encoder skip padding."""
        prepare = super()._prepare_text_encoder_decoder_kwargs_for_generation
        return without_padding(prepare, inputs_tensor, model_kwargs, *args, **kwargs)

    def _prepare_encoder_decoder_kwargs_for_generation(
        self, inputs_tensor: torch.Tensor, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        """The same, in transformers 5.17."""
        prepare = super()._prepare_encoder_decoder_kwargs_for_generation
        return without_padding(prepare, inputs_tensor, model_kwargs, *args, **kwargs)

    def _prepare_cache_for_generation(
        self,
        generation_config: Settings,
        model_kwargs: dict[str, Any],
        generation_mode: GenerationMode,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Makes no cache where `Decoding` keeps its own."""
        has_own = self.config.is_encoder_decoder and generation_mode in FAST_MODES
        if not has_own or self._why_not_fast(generation_config, model_kwargs):
            super()._prepare_cache_for_generation(
                generation_config, model_kwargs, generation_mode, *args, **kwargs
            )

    def _get_logits_processor(
        self,
        generation_config: Settings,
        input_ids_seq_length: int,
        encoder_input_ids: torch.LongTensor,
        *args: Any,
        model_kwargs: dict[str, Any],
        **kwargs: Any,
    ) -> LogitsProcessorList:
        processors = super()._get_logits_processor(
            generation_config,
            input_ids_seq_length,
            encoder_input_ids,
            *args,
            model_kwargs=model_kwargs,
            **kwargs,
        )
        if generation_config.max_extra_tokens is not None and not uses_own_search(generation_config):
            end = generation_config._eos_token_tensor
            if end is None:
                raise ValueError(f"max_extra_tokens={generation_config.max_extra_tokens} needs eos_token_id")
            limits = output_limits(generation_config.max_extra_tokens, encoder_input_ids, model_kwargs)
            processors.append(EndAtLimit(input_ids_seq_length + limits, end))
        return processors

    def _beam_search(
        self,
        input_ids: Any,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: Settings,
        synced_gpus: bool = False,
        inputs_tensor: Any = None,
        **model_kwargs: Any,
    ) -> Any:
        """Takes and returns what transformers' beam search does; `sequences_scores` are s(Y, X)."""
        settings, members = generation_config, generation_config.ensemble or ()
        fast = [
            model._why_not_fast(settings, model_kwargs, synced_gpus) is None for model in (self, *members)
        ]
        is_own = (
            uses_own_search(settings) or settings.terms is not None or settings.beam_groups > 1 or members
        )
        if not is_own and (not fast[0] or settings.do_sample or other_criteria(stopping_criteria)):
            return super()._beam_search(
                input_ids, logits_processor, stopping_criteria, settings, synced_gpus, **model_kwargs
            )
        if fast[0]:
            logits_processor = with_own_processors(logits_processor)
        static = any(fast) and is_static(input_ids.device)
        return run_search(
            self,
            partial(self._begin, settings=settings, fast=fast, source=inputs_tensor),
            input_ids,
            logits_processor,
            stopping_criteria,
            settings,
            model_kwargs,
            keep_rows=static or needs_all_rows(settings, logits_processor, synced_gpus, model_kwargs),
            check_every=CHECK_EVERY if static else 1,
            synced_gpus=synced_gpus,
        )

    def _sample(
        self,
        input_ids: Any,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: Settings,
        synced_gpus: bool = False,
        streamer: Any = None,
        inputs_tensor: Any = None,
        **model_kwargs: Any,
    ) -> Any:
        """Takes and returns what transformers' greedy search and sampling do."""
        settings, members = generation_config, generation_config.ensemble or ()
        fast = [
            model._why_not_fast(settings, model_kwargs, synced_gpus) is None for model in (self, *members)
        ]
        if not (fast[0] or members):
            return super()._sample(
                input_ids,
                logits_processor,
                stopping_criteria,
                settings,
                synced_gpus,
                streamer,
                **model_kwargs,
            )
        # A row that has ended leaves the batch, unless something counts its rows or draws numbers for them.
        has_end = any(isinstance(criterion, EosTokenCriteria) for criterion in stopping_criteria)
        logits_processor = with_own_processors(logits_processor)
        static = any(fast) and is_static(input_ids.device)
        drop_ended = has_end and not (static or settings.do_sample or see_rows(logits_processor))
        check_every = CHECK_EVERY if static and streamer is None and has_end else 1
        tokens, live = input_ids, torch.arange(len(input_ids), device=input_ids.device)
        unfinished = torch.ones_like(live, dtype=torch.bool)
        lengths = torch.full_like(live, tokens.shape[1])
        steps, logits = self._begin(
            input_ids, model_kwargs, 1, settings=settings, fast=fast, source=inputs_tensor
        )
        rows = None
        while True:
            if logits is None:
                logits = steps.step(tokens[live], rows, 1)
            scores = logits_processor(tokens[live], logits)
            if settings.do_sample:
                added = torch.multinomial(scores.softmax(-1), num_samples=1).squeeze(1)
            else:
                added = scores.argmax(-1)
            if has_end:
                padding = settings._pad_token_tensor.to(added.device).expand(len(tokens))
                added = padding.index_copy(0, live, added).where(unfinished, padding)
            tokens = torch.cat([tokens, added[:, None]], dim=1)
            lengths = lengths + unfinished
            unfinished = unfinished & ~stopping_criteria(tokens, None)
            if streamer is not None:
                streamer.put(added.cpu())
            if tokens.shape[1] >= settings.max_length:
                break
            if tokens.shape[1] % check_every == 0 and not unfinished.any():
                break
            logits = rows = None
            if drop_ended and not (kept := unfinished[live]).all():
                rows = kept.nonzero().squeeze(1)
                live = live[rows]
                logits_processor = LogitsProcessorList(p.of_rows(rows) for p in logits_processor)
        steps.finish()
        if streamer is not None:
            streamer.end()
        return tokens[:, : int(lengths.max())]  # the others are padding after the end of all rows

    def prepare_for_decoding(self, precision: str | None = None) -> str:
        """Prepares the weights for `generate`, which otherwise does so at its first call.

        Saving, loading and training see the model's own weights. When these change, `generate` prepares them
        again, with the same precision.

        Args:
            precision: "fp32", "bf16", "fp16" or "int8", in which `generate` multiplies with the decoder's
                weights; "auto" measures which is the fastest here; None is that of the weights. "bf16" and
                "int8" change some outputs.

        Returns:
            the precision, for "auto" the one that it chose.

        Raises:
            ValueError: for another precision, or a model that `generate` runs as a module only.
        """
        if precision not in (None, *PRECISIONS):
            raise ValueError(
                f"precision={precision!r} is unknown: use one of {', '.join(PRECISIONS)}, or None"
            )
        reason = why_not_prepared(self)
        if reason is not None:
            raise ValueError(f"{type(self).__name__} cannot be prepared for decoding: {reason}")
        return prepared_decoder(self, precision).precision

    def _why_not_fast(
        self, settings: Settings, model_kwargs: dict[str, Any], synced_gpus: bool = False
    ) -> str | None:
        """Why this call needs the model's own forward pass, which is logged once; None for `Decoding`."""
        reason = needs_own_forward(settings, model_kwargs, synced_gpus) or why_not_prepared(self)
        if is_in_training(self):
            reason = "the model is in training, with dropout; call model.eval() first"
        if reason is not None:
            logger.info_once(f"generate runs the forward pass of {type(self).__name__}: {reason}")
        return reason

    def _begin(
        self,
        input_ids: Any,
        model_kwargs: dict[str, Any],
        width: int,
        *,
        settings: Settings,
        fast: list[bool],
        source: Any = None,
    ) -> tuple[Any, torch.Tensor | None]:
        """The steps after these prompts, and the logits of the first one if they are known.

        Args:
            width: equal rows for each sentence.
            fast: for this model and those of the ensemble, whether `Decoding` serves the call.
            source: ids of the texts `(sentences, length)`, for the other encoders of an ensemble.
        """

        def begin(model: Any, is_fast: bool, model_kwargs: dict[str, Any]) -> tuple[Any, torch.Tensor | None]:
            if is_fast:
                return model._start_decoding(input_ids, settings, model_kwargs, width)
            steps = PlainSteps(model, model_kwargs, width)
            return steps, steps.start(input_ids, settings)

        begins = [partial(begin, self, fast[0], model_kwargs)]
        for model, is_fast in zip(settings.ensemble or (), fast[1:]):
            own = {name: value for name, value in model_kwargs.items() if name != "past_key_values"}
            own["encoder_outputs"] = encoded(
                model, source, model_kwargs.get("attention_mask"), len(input_ids)
            )
            begins.append(partial(begin, model, is_fast, own))
        return EnsembleSteps.begin(begins, input_ids, width) if len(begins) > 1 else begins[0]()

    def _start_decoding(
        self, input_ids: Any, settings: Settings, model_kwargs: dict[str, Any], width: int
    ) -> tuple[Decoding, torch.Tensor | None]:
        """The fast steps after these prompts, `width` equal rows for each sentence.

        The model's own forward pass reads prompts of more than the start token. Then their logits,
        `(rows, vocabulary)`, are the second value.
        """
        mask, encoded = model_kwargs.get("attention_mask"), model_kwargs.get("encoder_outputs")
        sentences, wants_attention = len(input_ids) // width, bool(settings.coverage_penalty)
        arguments: list[Any] = [prepared_decoder(self), sentences]
        if encoded is not None:
            if len(encoded[0]) != len(input_ids):
                raise ValueError(f"{len(input_ids)} decoder_input_ids for {len(encoded[0])} sources")
            arguments += [encoded[0][::width], None if mask is None else mask[::width], wants_attention]
        if is_static(input_ids.device):
            decoding: Decoding = StaticDecoding.begin(*arguments, width=width)
        else:
            decoding = Decoding(*arguments)
        if encoded is not None and input_ids.shape[1] == 1:
            return decoding, None
        outputs = self._prefill(input_ids, settings, model_kwargs)
        cache: Any = own_cache(outputs.past_key_values)
        if encoded is None:
            decoding.take_prompt(cache, width, mask, model_kwargs.get("position_ids"))
        else:
            decoding.take_prompt(cache, width)
        if wants_attention:
            decoding.source_attention = attention_to_source(outputs)
        return decoding, outputs.logits[:, -1].float()
