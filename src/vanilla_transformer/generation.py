"""`generate` with the paper's decoding (section 6.1): beam search and a length limit for each sentence."""

import torch
from transformers import GenerationConfig, GenerationMixin, LogitsProcessor, PreTrainedConfig
from transformers.cache_utils import EncoderDecoderCache
from transformers.generation import (
    EosTokenCriteria,
    GenerateBeamDecoderOnlyOutput,
    GenerateBeamEncoderDecoderOutput,
    MaxLengthCriteria,
    StoppingCriteriaList,
)

from .beam_search import BeamSearch, leave_only

SETTINGS = ("length_penalty_type", "coverage_penalty", "max_extra_tokens")  # what GenerationConfig gains


def paper_generation_config(config: PreTrainedConfig) -> GenerationConfig:
    """Section 6.1 for models of this configuration: beam 4, α 0.6, output at most input + 50 tokens."""
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


class EndAtLimit(LogitsProcessor):
    """Leaves a row nothing but the end token when only one token more is allowed.

    Args:
        lengths: the longest that rows may become, prompt included, `(rows,)`, or `(1,)` for all of them.
        end: ids of the end tokens.
    """

    def __init__(self, lengths: torch.Tensor, end: torch.Tensor):
        self.lengths, self.shortest, self.end = lengths, int(lengths.min()), end

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        length = input_ids.shape[1] + 1
        if length < self.shortest:
            return scores
        # The limit holds even where another processor forbids the end: at worst it is very improbable.
        possible = scores[:, self.end].clamp(min=torch.finfo(scores.dtype).min)
        return leave_only(self.end, scores.index_copy(1, self.end, possible), length >= self.lengths)


class PaperGenerationMixin(GenerationMixin):
    """`generate` with the paper's decoding where its settings ask for it, and transformers' own elsewhere.

    The settings are entries of a `GenerationConfig` or arguments of `generate`, like all others there:

    - `length_penalty_type="gnmt"` makes `num_beams > 1` the beam search of this file, with `length_penalty`
      as α. `early_stopping=True` means what it means in transformers.
    - `coverage_penalty` is β (0.2 in Wu et al.). p_ij is the cross-attention of the last decoder layer, mean
      over its heads; only "eager" attention returns it.
    - `max_extra_tokens`: the output may have so many tokens more than the input, end tokens included, in each
      row of a batch by its own real tokens. It holds for greedy search and sampling, too.
    """

    def _prepare_generation_config(self, generation_config, **kwargs):
        given = {name: kwargs.pop(name) for name in SETTINGS if name in kwargs}
        generation_config, model_kwargs = super()._prepare_generation_config(generation_config, **kwargs)
        for name in SETTINGS:
            setattr(generation_config, name, given.get(name, getattr(generation_config, name, None)))
        self._check_settings(generation_config)
        return generation_config, model_kwargs

    def _check_settings(self, settings: GenerationConfig):
        kind, beta, extra = (getattr(settings, name) for name in SETTINGS)
        if kind not in (None, "gnmt"):
            raise ValueError(f"length_penalty_type={kind!r}: there are 'gnmt' and None, transformers' own")
        if not settings.num_beams >= 1:
            raise ValueError(f"num_beams={settings.num_beams} must be at least 1")
        if uses_own_search(settings) and settings.do_sample:
            raise ValueError(
                "length_penalty_type='gnmt' draws no samples; with do_sample=True set num_beams=1 or "
                "length_penalty_type=None"
            )
        if beta is not None and not (isinstance(beta, (int, float)) and beta >= 0):
            raise ValueError(f"coverage_penalty={beta!r} must be a number and not negative")
        if beta and not (uses_own_search(settings) and self.config.is_encoder_decoder):
            raise ValueError(
                f"coverage_penalty={beta} needs length_penalty_type='gnmt' (here {kind!r}), num_beams > 1 "
                f"(here {settings.num_beams}) and encoder and decoder (here {type(self).__name__})"
            )
        if extra is not None and not (isinstance(extra, int) and extra >= 0):
            raise ValueError(f"max_extra_tokens={extra!r} must be a whole number and not negative")

    def _prepare_generated_length(
        self, generation_config, has_default_max_length, inputs_tensor, input_ids_length, **kwargs
    ):
        """With `max_extra_tokens` the longest limit of the batch becomes or lowers `max_length`."""
        extra, max_new_tokens = generation_config.max_extra_tokens, generation_config.max_new_tokens
        overruled = extra is not None and max_new_tokens is not None
        generation_config = super()._prepare_generated_length(
            generation_config=generation_config,
            # False would make transformers warn that max_new_tokens overrules the model's own max_length.
            has_default_max_length=has_default_max_length or overruled,
            inputs_tensor=inputs_tensor,
            input_ids_length=input_ids_length,
            **kwargs,
        )
        if extra is None:
            return generation_config
        longest = input_ids_length + max(1, inputs_tensor.shape[1] + extra)
        if has_default_max_length and max_new_tokens is None:  # in place of transformers' 20 tokens
            generation_config.max_length = min(longest, self.config.max_position_embeddings)
            generation_config.max_new_tokens = generation_config.max_length - input_ids_length
        generation_config.max_length = min(generation_config.max_length, longest)
        return generation_config

    def _get_logits_processor(
        self,
        generation_config,
        input_ids_seq_length=None,
        encoder_input_ids=None,
        model_kwargs=None,
        **kwargs,
    ):
        processors = super()._get_logits_processor(
            generation_config=generation_config,
            input_ids_seq_length=input_ids_seq_length,
            encoder_input_ids=encoder_input_ids,
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
        input_ids,
        logits_processor,
        stopping_criteria,
        generation_config,
        synced_gpus=False,
        **model_kwargs,
    ):
        """Takes and returns what transformers' beam search does; `sequences_scores` are s(Y, X)."""
        if not uses_own_search(generation_config):
            return super()._beam_search(
                input_ids, logits_processor, stopping_criteria, generation_config, synced_gpus, **model_kwargs
            )
        # Some need `num_beams` rows per sentence at every step: the caller (a dict of outputs, a cache of
        # theirs), processors that know rows by number, a cache of fixed size, other processes in step with
        # this one. For all others the batch starts with one row per sentence and loses sentences when done.
        cache = model_kwargs.get("past_key_values")
        whole_batch = (
            generation_config.return_dict_in_generate
            or len(logits_processor) > 0
            or synced_gpus
            or (cache is not None and (cache.is_compileable or getattr(cache, "_is_user_defined", False)))
        )
        beams = generation_config.num_beams
        width = beams if whole_batch else 1
        if not whole_batch:  # `generate` has repeated each sentence `beams` times
            first_rows = torch.arange(0, len(input_ids), beams, device=input_ids.device)
            input_ids, model_kwargs = input_ids[first_rows], select_rows(model_kwargs, first_rows)

        limits = input_ids.new_full(input_ids.shape[:1], stopping_criteria.max_length - input_ids.shape[1])
        if generation_config.max_extra_tokens is not None:
            own = output_limits(generation_config.max_extra_tokens, input_ids, model_kwargs)
            limits = limits.minimum(own)
        coverage = None
        if generation_config.coverage_penalty:
            model_kwargs["output_attentions"] = True
            memory, mask = model_kwargs["encoder_outputs"][0], model_kwargs.get("attention_mask")
            coverage = memory.new_zeros(memory.shape[:2]).float() if mask is None else 1 - mask.float()
        search = BeamSearch(generation_config, input_ids, limits[::width], coverage, not whole_batch)
        other_criteria = StoppingCriteriaList(
            criterion
            for criterion in stopping_criteria
            if not isinstance(criterion, EosTokenCriteria | MaxLengthCriteria)
        )
        steps = dict.fromkeys(step_outputs(generation_config, self.config.is_encoder_decoder), ())

        def stopped(tokens):
            return other_criteria(tokens, steps.get("scores"))

        outputs = self._prefill(
            input_ids, generation_config, model_kwargs, is_first_iteration=not generation_config.is_assistant
        )
        while self._has_unfinished_sequences(search.done, synced_gpus, device=input_ids.device):
            live = search.tokens.flatten(0, 1)
            if search.length:
                inputs = self.prepare_inputs_for_generation(
                    live, next_sequence_length=1 if model_kwargs["use_cache"] else None, **model_kwargs
                )
                outputs = self(**inputs, return_dict=True)
            model_kwargs = self._update_model_kwargs_for_generation(
                outputs, model_kwargs, is_encoder_decoder=self.config.is_encoder_decoder
            )
            if search.done:
                continue  # the other processes are not, and need this one's forward passes
            logits = outputs.logits[:, -1].float()  # (rows, vocabulary)
            log_probs = logits_processor(live, logits.log_softmax(-1))
            available = {**outputs, "logits": logits, "scores": log_probs}
            steps = {name: (*earlier, available[name]) for name, earlier in steps.items()}

            layout = search.tokens.shape[:2]
            attention = None if coverage is None else self._source_attention(outputs)
            rows = search.step(log_probs, attention, stopped if other_criteria else None)
            if search.tokens.shape[:2] != layout:
                model_kwargs = select_rows(model_kwargs, rows)
            elif (cache := model_kwargs.get("past_key_values")) is not None:
                # A row is replaced by one of the same sentence: what comes from the source stays.
                is_pair = isinstance(cache, EncoderDecoderCache)
                (cache.self_attention_cache if is_pair else cache).reorder_cache(rows)

        origins = search.finished_origins[:, : search.returned].flatten(0, 1)
        origins = origins[:, : int((origins >= 0).sum(-1).max())]
        sequences = search.finished[:, : search.returned].flatten(0, 1)
        sequences = sequences[:, : input_ids.shape[1] + origins.shape[1]]
        if not generation_config.return_dict_in_generate:
            return sequences
        result = {
            "sequences": sequences,
            "sequences_scores": search.ranks[:, : search.returned].flatten(),
            "beam_indices": origins,
            "past_key_values": model_kwargs.get("past_key_values"),
            **steps,
        }
        if not self.config.is_encoder_decoder:
            return GenerateBeamDecoderOnlyOutput(**result)
        encoded = model_kwargs["encoder_outputs"]
        if generation_config.output_attentions:
            result["encoder_attentions"] = encoded.get("attentions")
        if generation_config.output_hidden_states:
            result["encoder_hidden_states"] = encoded.get("hidden_states")
        return GenerateBeamEncoderDecoderOutput(**result)

    def _source_attention(self, outputs) -> torch.Tensor:
        """p_ij of every target token j so far in this pass, summed, `(rows, source)`."""
        weights = outputs.cross_attentions[-1] if outputs.cross_attentions else None
        if weights is None:
            raise ValueError(
                "coverage_penalty needs attention weights, but attention by "
                f"{self.config._attn_implementation!r} returns none; call "
                "model.set_attn_implementation('eager') first"
            )
        return weights.float().mean(1).sum(1)  # (rows, heads, target, source) over heads and target


def uses_own_search(settings: GenerationConfig) -> bool:
    return settings.length_penalty_type == "gnmt" and settings.num_beams > 1


def output_limits(extra: int, prompt: torch.Tensor, model_kwargs: dict) -> torch.Tensor:
    """The input's real tokens and `extra` more, at least 1: `(rows,)`, or `(1,)` if all rows are equal."""
    if (mask := model_kwargs.get("attention_mask")) is not None:
        lengths = mask.sum(-1)
    else:
        source = model_kwargs.get("inputs_embeds", prompt)
        if "encoder_outputs" in model_kwargs:
            source = model_kwargs["encoder_outputs"][0]
        lengths = torch.tensor([source.shape[1]], device=prompt.device)
    return (lengths + extra).clamp(min=1)


def step_outputs(settings: GenerationConfig, is_encoder_decoder: bool) -> list[str]:
    """Names of the outputs of every step that the caller asks for."""
    prefix = "decoder_" if is_encoder_decoder else ""
    wanted = {
        "scores": settings.output_scores,
        "logits": settings.output_logits,
        f"{prefix}attentions": settings.output_attentions,
        f"{prefix}hidden_states": settings.output_hidden_states,
        "cross_attentions": settings.output_attentions and is_encoder_decoder,
    }
    return [name for name, is_wanted in wanted.items() if is_wanted and settings.return_dict_in_generate]


def select_rows(model_kwargs: dict, rows: torch.Tensor) -> dict:
    """The model's inputs for these rows of the batch, however often each; the cache changes in place."""

    def select(value):
        return value.index_select(0, rows) if isinstance(value, torch.Tensor) else value

    if model_kwargs.get("past_key_values") is not None:
        model_kwargs["past_key_values"].reorder_cache(rows)
    selected = {name: select(value) for name, value in model_kwargs.items()}
    if (memory := selected.get("encoder_outputs")) is not None:
        selected["encoder_outputs"] = type(memory)(**{name: select(value) for name, value in memory.items()})
    return selected
