"""The paper's decoding (section 6.1): beam search with the penalties of Wu et al. 2016 (arXiv 1609.08144).

A hypothesis Y for a source X ranks by s(Y, X) = log P(Y | X) / lp(Y) + cp(X; Y), their equation 14.
"""

import torch
from torch import nn
from transformers import GenerationConfig, GenerationMixin, LogitsProcessor, PreTrainedConfig
from transformers.cache_utils import EncoderDecoderCache
from transformers.generation import (
    EosTokenCriteria,
    GenerateBeamDecoderOnlyOutput,
    GenerateBeamEncoderDecoderOutput,
    MaxLengthCriteria,
    StoppingCriteriaList,
)

SETTINGS = ("length_penalty_type", "coverage_penalty", "max_extra_tokens")  # what GenerationConfig gains
NEVER = float("-inf")  # the log-probability of what cannot be


def length_penalty(length: torch.Tensor | int, alpha: float) -> torch.Tensor | float:
    """lp(Y) = ((5 + |Y|) / 6)^α, where |Y| counts the end token."""
    return ((5 + length) / 6) ** alpha


def coverage_penalty(coverage: torch.Tensor, beta: float) -> torch.Tensor:
    """cp(X; Y) = β Σ_i log(min(Σ_j p_ij, 1)).

    Args:
        coverage: Σ_j p_ij, the attention that each source token got from all target tokens, `(..., source)`;
            1 where there is padding. A sum that underflows to 0 counts as the smallest normal number.
    """
    return beta * coverage.clamp(torch.finfo(coverage.dtype).tiny, 1).log().sum(-1)


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


class BeamSearch:
    """The hypotheses for a batch of sentences: fed with log-probabilities step by step, it knows no model.

    As in the paper's own code (tensor2tensor), live and finished hypotheses are kept apart. A step takes the
    best continuations of a sentence's live hypotheses, so many that `beams` can live on when all that may
    end do. Those that ended are ranked among the finished by s(Y, X); of the others the `beams` most probable
    live on (they have one length, and may still cover what they have not). At its length limit a hypothesis
    ends with the end token, at that token's own probability (as in fairseq); only if it cannot, because a
    processor forbids it or there is no end token, does it count as it stands.

    A sentence is done when no live hypothesis can outrank the `returned` best finished ones: log P only falls
    as a hypothesis grows and cp is at most 0, so that log P / lp, with the largest lp that lies ahead, is a
    bound. (A processor that adds to log-probabilities, such as a positive `sequence_bias`, voids it.)

    Args:
        settings: with `num_beams`, `num_return_sequences`, the penalties and the special tokens.
        prompts: what every output begins with, `(sentences * width, length)`. The `width` hypotheses of a
            sentence are all the same in the first step, so that one is enough.
        limits: the most tokens that may follow the prompt, `(sentences,)`.
        coverage: before the first step, `(sentences * width, source)`: 0, and 1 at padding; None without cp.
        drop_done: take a sentence out of the batch when it is done.

    Attributes:
        tokens: the live hypotheses `(sentences, width, length)`, whose rows are the model's next batch.
        scores: their log P(Y | X), `(sentences, width)`.
        sentences: the number of each sentence that is still in the batch.
        ranks, finished: s(Y, X) `(sentences, num_beams)`, best first, and tokens of the finished hypotheses.
        origins, finished_origins: for each token after the prompt the row of the batch that predicted it.
    """

    def __init__(
        self,
        settings: GenerationConfig,
        prompts: torch.Tensor,
        limits: torch.Tensor,
        coverage: torch.Tensor | None,
        drop_done: bool,
    ):
        self.beams, self.returned = settings.num_beams, settings.num_return_sequences
        self.alpha, self.beta = settings.length_penalty, settings.coverage_penalty
        self.stop_early, self.drop_done = settings.early_stopping is True, drop_done
        end, pad = settings._eos_token_tensor, settings._pad_token_tensor
        self.end = prompts.new_empty(0) if end is None else end
        self.pad = None if pad is None else int(pad)
        self.pad_may_follow = self.pad is None or self.pad in self.end
        self.limits, self.shortest_limit, longest = limits, int(limits.min()), int(limits.max())

        self.tokens = prompts.unflatten(0, (len(limits), -1))
        self.origins = self.tokens[..., :0]
        self.scores = torch.full(self.tokens.shape[:2], NEVER, device=prompts.device)
        self.scores[:, 0] = 0.0
        self.coverage = None if coverage is None else coverage.unflatten(0, (len(limits), -1))
        self.sentences = torch.arange(len(limits), device=prompts.device)
        self.length = 0  # |Y| of the live hypotheses
        self.done = False

        self.ranks = torch.full((len(limits), self.beams), NEVER, device=prompts.device)
        self.finished = nn.functional.pad(
            self.tokens[:, :1].expand(-1, self.beams, -1), (0, longest), value=self.pad or 0
        )
        self.finished_origins = prompts.new_full((len(limits), self.beams, longest), -1)

    def step(self, log_probs, attention=None, criteria=None) -> torch.Tensor:
        """Adds a token to every hypothesis.

        Args:
            log_probs: of the next token, `(sentences * width, vocabulary)`.
            attention: which that token paid to the source, `(sentences * width, source)`.
            criteria: a function from tokens `(rows, length)` to whether they end there, `(rows,)`.

        Returns:
            for each row of the next batch the row of this one that it continues.
        """
        batch, width, _ = self.tokens.shape
        self.length += 1
        at_limit = self.limits == self.length  # (batch,)
        if not self.pad_may_follow:
            log_probs[:, self.pad] = NEVER
        if self.length >= self.shortest_limit and len(self.end):
            can_end = (log_probs[:, self.end] > NEVER).any(1)
            log_probs = leave_only(self.end, log_probs, at_limit.repeat_interleave(width) & can_end)

        count = self.beams * (1 + max(1, len(self.end)))
        gains, next_tokens = top_k(log_probs, count)  # (batch * width, count)
        scores = (self.scores[..., None] + gains.unflatten(0, (batch, width))).flatten(1)
        scores, index = scores.topk(min(count, scores.shape[1]))  # (batch, candidates)
        parents = index // gains.shape[1]
        next_tokens = next_tokens.reshape(batch, -1).gather(1, index)
        rows = torch.arange(batch, device=parents.device)[:, None] * width + parents
        tokens = torch.cat([take(self.tokens, parents), next_tokens[..., None]], dim=-1)
        origins = torch.cat([take(self.origins, parents), rows[..., None]], dim=-1)

        ended = torch.isin(next_tokens, self.end) | at_limit[:, None]
        if criteria is not None:
            ended |= criteria(tokens.flatten(0, 1)).view_as(ended)
        ranks = scores / length_penalty(self.length, self.alpha)
        if self.coverage is not None:
            self.coverage = take(self.coverage + attention.view_as(self.coverage), parents)
            ranks = ranks + coverage_penalty(self.coverage, self.beta)
        if ended.any():
            self._finish(ranks.masked_fill(~ended, NEVER), tokens, origins)

        self.scores, kept = scores.masked_fill(ended, NEVER).topk(min(self.beams, scores.shape[1]))
        self.tokens, self.origins, rows = take(tokens, kept), take(origins, kept), rows.gather(1, kept)
        if self.coverage is not None:
            self.coverage = take(self.coverage, kept)
        return self._leave_out_done(rows)

    def _finish(self, ranks, tokens, origins):
        """Ranks candidates, `(batch, candidates)` and their tokens, among the finished hypotheses."""
        batch, unused = self.sentences, self.finished.shape[-1] - tokens.shape[-1]
        tokens = nn.functional.pad(tokens, (0, unused), value=self.pad or 0)
        origins = nn.functional.pad(origins, (0, unused), value=-1)
        ranks = torch.cat([self.ranks[batch], ranks], dim=1)
        ranks, kept = ranks.sort(dim=1, descending=True, stable=True)  # an empty place stays empty
        self.ranks[batch], kept = ranks[:, : self.beams], kept[:, : self.beams]
        self.finished[batch] = take(torch.cat([self.finished[batch], tokens], dim=1), kept)
        self.finished_origins[batch] = take(torch.cat([self.finished_origins[batch], origins], dim=1), kept)

    def _leave_out_done(self, rows):
        longest = self.limits if self.alpha > 0 else self.length + 1
        bound = self.scores[:, 0] / length_penalty(longest, self.alpha)
        going = bound > self.ranks[self.sentences, self.returned - 1]
        if self.stop_early:
            going &= self.ranks[self.sentences, -1] == NEVER
        still_going = int(going.sum())
        self.done = still_going == 0
        if still_going in (0, len(going)):
            return rows.flatten()
        if not self.drop_done:
            self.scores = self.scores.masked_fill(~going[:, None], NEVER)
            return rows.flatten()
        self.tokens, self.origins, self.scores = self.tokens[going], self.origins[going], self.scores[going]
        self.sentences, self.limits = self.sentences[going], self.limits[going]
        if self.coverage is not None:
            self.coverage = self.coverage[going]
        return rows[going].flatten()


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


def leave_only(ids: torch.Tensor, scores: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Scores `(rows, vocabulary)` where, in the rows marked `(rows,)`, all other ids are impossible."""
    others = torch.ones(scores.shape[-1], dtype=torch.bool, device=scores.device)
    others[ids] = False
    return scores.masked_fill(rows[:, None] & others, NEVER)


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


def take(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """`values[i, index[i, j]]` for all i and j: `(a, b, c)` and `(a, d)` to `(a, d, c)`."""
    return values.gather(1, index[..., None].expand(*index.shape, values.shape[-1]))


def top_k(values: torch.Tensor, count: int, block: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """`values.topk(count)` of a matrix with wide rows, up to four times as fast.

    The `count` largest values lie in the `count` blocks with the largest maxima: only these are sorted.
    """
    blocks = values.shape[1] // block
    if blocks < 2 * count:
        return values.topk(min(count, values.shape[1]))
    blocked = values[:, : blocks * block].unflatten(1, (blocks, block))
    best = blocked.amax(-1).topk(count).indices  # (rows, count)
    places = torch.arange(block, device=values.device)
    ids = (best[..., None] * block + places).flatten(1)
    rest = torch.arange(blocks * block, values.shape[1], device=values.device)
    ids = torch.cat([ids, rest.expand(len(values), -1)], dim=1)
    top, place = values.gather(1, ids).topk(count)
    return top, ids.gather(1, place)
