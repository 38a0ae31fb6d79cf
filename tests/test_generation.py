"""Search and sampling: the paper's beam search, its limits, and what generate() returns."""

import itertools
import math

import pytest
import torch
from plain_beam_search import END, PAD, START, plain_search, words
from tiny_generation import padded_batch, random_model
from transformers import GenerationConfig, StoppingCriteriaList

from vanilla_transformer.beam_search import BeamSearch
from vanilla_transformer.generation import paper_generation_config

GNMT = {"length_penalty_type": "gnmt"}


def rows(batch):
    """Yields each sentence of a padded batch as a batch of one, without padding."""
    for input_ids, mask in zip(batch["input_ids"], batch["attention_mask"]):
        yield {"input_ids": input_ids[mask == 1][None]}


@torch.no_grad()
def score(model, source, outputs, alpha, beta):
    """Computes s(Y, X) of equation 14 for outputs of equal length in one forward pass."""
    prefixes = torch.tensor([[START, *output[:-1]] for output in outputs])
    sources = source["input_ids"].expand(len(outputs), -1)
    passed = model(input_ids=sources, decoder_input_ids=prefixes, output_attentions=True)
    log_probs = passed.logits.log_softmax(-1)
    attention = passed.cross_attentions[-1].mean(1).sum(1).tolist()  # over heads, over the target
    penalty = ((5 + len(outputs[0])) / 6) ** alpha
    scores = {}
    for row, output in enumerate(outputs):
        log_p = sum(log_probs[row, step, token].item() for step, token in enumerate(output))
        covered = sum(math.log(min(received, 1.0)) for received in attention[row])
        scores[output] = log_p / penalty + beta * covered
    return scores


@pytest.mark.parametrize(
    "alpha, beta", [(0.0, 0.0), (0.6, 0.0), (1.5, 0.0), (-0.7, 0.0), (0.6, 0.2), (1.0, 2.0)]
)
def test_a_wide_search_finds_the_best_of_all_outputs(alpha, beta):
    model, batch = random_model(6, seed=3), padded_batch(6, [2, 1, 2])
    returned = 12
    generated = model.generate(
        **batch,
        **GNMT,
        length_penalty=alpha,
        coverage_penalty=beta,
        max_extra_tokens=2,
        num_beams=64,  # the number of unfinished outputs of 3 words
        num_return_sequences=returned,
        return_dict_in_generate=True,
    )
    found = [words(sequence) for sequence in generated.sequences]
    scores = generated.sequences_scores.unflatten(0, (-1, returned))
    for sentence, source in enumerate(rows(batch)):
        limit = source["input_ids"].shape[1] + 2
        truth = {}
        for length in range(limit):
            middles = itertools.product((START, 3, 4, 5), repeat=length)
            truth |= score(model, source, [(*middle, END) for middle in middles], alpha, beta)
        of_sentence = found[returned * sentence : returned * (sentence + 1)]
        assert len(set(of_sentence)) == returned
        torch.testing.assert_close(scores[sentence], torch.tensor([truth[output] for output in of_sentence]))
        torch.testing.assert_close(
            scores[sentence], torch.tensor(sorted(truth.values(), reverse=True)[:returned])
        )


@pytest.mark.parametrize("alpha", [-1.0, 0.0, 0.6, 2.0])
@pytest.mark.parametrize("beams, returned", [(2, 1), (4, 3)])
def test_generate_equals_a_plain_search(alpha, beams, returned):
    model, batch = random_model(12, seed=beams), padded_batch(12, [3, 1, 5, 4])
    settings = {**GNMT, "length_penalty": alpha, "num_beams": beams, "num_return_sequences": returned}
    settings["max_extra_tokens"] = 6
    generated = model.generate(**batch, **settings, return_dict_in_generate=True)
    expected = []
    for source in rows(batch):
        ids = source["input_ids"]

        @torch.no_grad()
        def predict(prefixes, ids=ids):
            logits = model(ids.expand(len(prefixes), -1), decoder_input_ids=prefixes).logits
            return logits[:, -1].log_softmax(-1), torch.ones(len(prefixes), 1)

        expected += plain_search(predict, beams, ids.shape[1] + 6, returned, alpha)
    torch.testing.assert_close(generated.sequences_scores, torch.tensor([score for score, _ in expected]))
    assert [words(sequence) for sequence in generated.sequences] == [output for _, output in expected]
    # Without the dict, sentences that are done leave the batch.
    assert torch.equal(model.generate(**batch, **settings), generated.sequences)


def test_sentences_that_are_done_leave_the_batch():
    model, batch = random_model(12), padded_batch(12, [5, 2, 3, 1])
    batch_sizes = []
    model.register_forward_pre_hook(
        lambda _, args, kwargs: batch_sizes.append(len(kwargs["decoder_input_ids"])), with_kwargs=True
    )
    model.generate(**batch, **GNMT, length_penalty=0.0, num_beams=3, max_extra_tokens=40)
    assert batch_sizes[:2] == [4, 12]
    assert batch_sizes[1:] == sorted(batch_sizes[1:], reverse=True)
    assert batch_sizes[-1] < 12 and len(batch_sizes) < 40


@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_a_batch_gives_the_same_outputs_as_its_sentences_alone(beta):
    model, batch = random_model(30), padded_batch(30, [7, 2, 5, 1, 6])
    settings = {
        **GNMT,
        "length_penalty": 0.6,
        "coverage_penalty": beta,
        "num_beams": 4,
        "max_extra_tokens": 5,
    }
    together = model.generate(**batch, **settings)
    for sequence, source in zip(together, rows(batch)):
        alone = model.generate(**source, **settings)
        assert words(sequence) == words(alone[0])


def test_caches_inputs_and_attention_kernels_do_not_change_the_output():
    model, batch = random_model(30), padded_batch(30, [7, 2, 5])
    settings = {**GNMT, "length_penalty": 0.6, "num_beams": 4, "max_extra_tokens": 5}
    expected = model.generate(**batch, **settings)
    mask = batch["attention_mask"]
    encoder = model.get_encoder()
    ways = {
        "static cache": {**batch, "cache_implementation": "static"},
        "no cache": {**batch, "use_cache": False},
        "encoder_outputs": {"encoder_outputs": encoder(**batch), "attention_mask": mask},
        "inputs_embeds": {
            "inputs_embeds": encoder.embed_tokens(batch["input_ids"]),
            "attention_mask": mask,
        },
        "a processor": {**batch, "bad_words_ids": [[29, 29, 29, 29]]},
        "a criterion": {**batch, "max_time": 1000.0},
        "decoder_input_ids": {**batch, "decoder_input_ids": torch.full((3, 1), START)},
    }
    for name, inputs in ways.items():
        assert torch.equal(model.generate(**inputs, **settings), expected), name
    model.set_attn_implementation("sdpa")
    assert torch.equal(model.generate(**batch, **settings), expected)


@pytest.mark.parametrize(
    "settings",
    [
        {**GNMT, "num_beams": 3},
        {"num_beams": 3},
        {"num_beams": 1},
        {"num_beams": 1, "do_sample": True},
    ],
    ids=["own search", "transformers' search", "greedy", "sampling"],
)
def test_each_sentence_has_its_own_length_limit(settings):
    lengths = [4, 1, 6]
    model, batch = random_model(30), padded_batch(30, lengths)
    model.lm_head = torch.nn.Linear(16, 30)
    with torch.no_grad():  # the end token is almost impossible, padding even more
        model.lm_head.bias[END], model.lm_head.bias[PAD] = -50.0, -99.0
    generated = model.generate(**batch, **settings, max_extra_tokens=3)
    for sequence, length in zip(generated, lengths):
        assert len(words(sequence)) == length + 3 and words(sequence)[-1] == END
    # A smaller max_length or max_new_tokens applies to all sentences, a larger one to none.
    assert model.generate(**batch, **settings, max_extra_tokens=3, max_length=5).shape[1] == 5
    assert model.generate(**batch, **settings, max_extra_tokens=3, max_new_tokens=5).shape[1] == 6
    assert model.generate(**batch, **settings, max_extra_tokens=3, max_length=50).shape[1] == 10


@pytest.mark.filterwarnings("ignore:Unfeasible length constraints")
def test_a_limit_forces_the_end_token_unless_it_is_forbidden_or_missing():
    model, batch = random_model(30), padded_batch(30, [4, 2])
    own = {**batch, **GNMT, "num_beams": 3, "length_penalty": 0.6}
    assert model.generate(**own, max_new_tokens=1).tolist() == [[START, END]] * 2
    assert model.generate(**batch, num_beams=1, min_length=9, max_extra_tokens=1).shape[1] == 6
    for settings in ({"min_length": 9}, {"suppress_tokens": [END]}, {"eos_token_id": None}):
        generated = model.generate(**own, **settings, max_new_tokens=4)
        assert generated.shape == (2, 5) and not (generated == PAD).any(), settings
    with pytest.raises(ValueError, match="max_extra_tokens=3 needs eos_token_id"):
        model.generate(**batch, max_extra_tokens=3, eos_token_id=None)


def test_scores_follow_from_the_outputs_of_the_steps_and_are_sorted():
    model, batch = random_model(30), padded_batch(30, [7, 2, 5])
    settings = {
        **GNMT,
        "length_penalty": 0.6,
        "num_beams": 4,
        "num_return_sequences": 3,
        "max_extra_tokens": 4,
    }
    generated = model.generate(
        **batch,
        **settings,
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
        output_attentions=True,
        output_hidden_states=True,
    )
    steps = len(generated.scores)
    for name in ("logits", "decoder_attentions", "cross_attentions", "decoder_hidden_states"):
        assert len(getattr(generated, name)) == steps, name
    assert generated.encoder_attentions is not None and generated.encoder_hidden_states is not None
    log_probs = model.compute_transition_scores(
        generated.sequences, generated.scores, generated.beam_indices, normalize_logits=False
    ).sum(1)
    lengths = (generated.beam_indices >= 0).sum(1)
    assert lengths.tolist() == [len(words(sequence)) for sequence in generated.sequences]
    torch.testing.assert_close(generated.sequences_scores, log_probs / ((5 + lengths) / 6) ** 0.6)
    ranked = generated.sequences_scores.view(3, 3)
    assert torch.equal(ranked, ranked.sort(descending=True).values)
    assert torch.equal(model.generate(**batch, **settings), generated.sequences)


def test_logits_processors_and_stopping_criteria_apply():
    model, batch = random_model(30), padded_batch(30, [7, 2, 5])
    own = {**batch, **GNMT, "num_beams": 4, "length_penalty": 0.6}

    def generate(**settings):
        return [words(sequence) for sequence in model.generate(**own, **{"max_extra_tokens": 9, **settings})]

    common = max(itertools.chain(*generate()), key=list(itertools.chain(*generate())).count)
    assert all(common not in output for output in generate(bad_words_ids=[[common]]))
    assert all(output[0] == 7 for output in generate(forced_bos_token_id=7))
    assert all(len(output) >= 9 for output in generate(min_new_tokens=9))
    allowed = ([3, END], [4, END], [5, END])  # by sentence
    outputs = generate(prefix_allowed_tokens_fn=lambda sentence, tokens: allowed[sentence])
    assert all(set(output) <= set(ids) for output, ids in zip(outputs, allowed))

    def stop_after_two(tokens, scores):
        return torch.full(tokens.shape[:1], tokens.shape[1] == 3)

    outputs = generate(stopping_criteria=StoppingCriteriaList([stop_after_two]))
    assert all(len(output) <= 2 for output in outputs)


def test_a_bfloat16_model_is_scored_in_float32():
    model, batch = random_model(30).to(torch.bfloat16), padded_batch(30, [7, 2, 5])
    generated = model.generate(
        **batch, **GNMT, num_beams=4, max_extra_tokens=4, coverage_penalty=0.2, return_dict_in_generate=True
    )
    assert generated.sequences_scores.dtype == torch.float32
    assert generated.sequences_scores.isfinite().all()


def test_a_decoder_only_model_generates_from_prompts_padded_on_the_left():
    model, batch = random_model(30, encoder_layers=0), padded_batch(30, [5, 2])
    batch = {name: values.flip(1) for name, values in batch.items()}
    settings = {**GNMT, "num_beams": 3, "length_penalty": 0.6, "max_extra_tokens": 4}
    together = model.generate(**batch, **settings)[:, 5:]
    assert torch.equal(
        model.generate(**batch, **settings, return_dict_in_generate=True).sequences[:, 5:], together
    )
    for sequence, source in zip(together, rows(batch)):
        length = source["input_ids"].shape[1]
        alone = model.generate(**source, **settings)[0, length:]
        assert alone.tolist() == [token for token in sequence.tolist() if token != PAD]
        assert len(alone) <= length + 4
    embedded = model.generate(
        inputs_embeds=model.get_input_embeddings()(batch["input_ids"]),
        attention_mask=batch["attention_mask"],
        **settings,
    )
    assert torch.equal(embedded, together)
    with pytest.raises(ValueError, match="needs .*an encoder-decoder model"):
        model.generate(**batch, **GNMT, num_beams=3, coverage_penalty=0.2)


def test_synced_gpus_gives_the_same_output(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    try:
        model, batch = random_model(30), padded_batch(30, [7, 2, 5])
        settings = {**GNMT, "num_beams": 4, "max_extra_tokens": 4}
        expected = model.generate(**batch, **settings)
        assert torch.equal(model.generate(**batch, **settings, synced_gpus=True), expected)
    finally:
        torch.distributed.destroy_process_group()


def test_without_gnmt_transformers_own_search_runs():
    model, batch = random_model(30), padded_batch(30, [7, 2, 5])
    plain = {**batch, "num_beams": 3, "max_new_tokens": 8, "length_penalty": 0.6}
    own = model.generate(**plain, **GNMT, return_dict_in_generate=True, output_scores=True)
    theirs = model.generate(**plain, return_dict_in_generate=True, output_scores=True)
    log_probs = model.compute_transition_scores(theirs.sequences, theirs.scores, theirs.beam_indices).sum(1)
    lengths = (theirs.beam_indices >= 0).sum(1)
    torch.testing.assert_close(theirs.sequences_scores, log_probs / lengths**0.6)
    assert not torch.allclose(theirs.sequences_scores, own.sequences_scores)


def test_settings_survive_saving(tmp_path):
    model, batch = random_model(30), padded_batch(30, [7, 2, 5])
    config = paper_generation_config(model.config)
    assert (config.num_beams, config.length_penalty, config.max_extra_tokens) == (4, 0.6, 50)
    config.max_extra_tokens, config.coverage_penalty = 4, 0.2
    expected = model.generate(**batch, generation_config=config)
    assert not torch.equal(expected, model.generate(**batch, max_new_tokens=20))

    config.save_pretrained(tmp_path)
    loaded = GenerationConfig.from_pretrained(tmp_path)
    assert loaded == config
    assert torch.equal(model.generate(**batch, generation_config=loaded), expected)

    model.generation_config = config
    model.save_pretrained(tmp_path / "model")
    model = type(model).from_pretrained(tmp_path / "model", attn_implementation="eager")
    assert torch.equal(model.generate(**batch), expected)
    unpenalised = {"length_penalty_type": None, "coverage_penalty": None, "max_extra_tokens": None}
    assert model.generate(**batch, **unpenalised, max_new_tokens=30, min_new_tokens=30).shape[1] == 31


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"length_penalty_type": "wu"}, "length_penalty_type='wu' is unknown: use 'gnmt'"),
        ({"coverage_penalty": -1.0}, "coverage_penalty=-1.0"),
        ({"length_penalty_type": None}, "coverage_penalty=0.2 needs length_penalty_type='gnmt'"),
        ({"max_extra_tokens": 2.5}, "max_extra_tokens=2.5"),
        ({"do_sample": True}, "do_sample"),
        ({"num_beams": 0}, "num_beams=0 must be at least 1"),
        ({"max_extra_token": 3}, "max_extra_token"),
    ],
)
def test_wrong_settings_raise(wrong, message):
    model, batch = random_model(30), padded_batch(30, [7, 2, 5])
    model.generation_config = paper_generation_config(model.config)
    model.generation_config.coverage_penalty = 0.2
    with pytest.raises(ValueError, match=message):
        model.generate(**batch, **wrong)


@pytest.mark.parametrize("beams", [1, 3])
def test_attention_weights_are_returned_by_any_implementation(beams):
    model, batch = random_model(30), padded_batch(30, [7, 2, 5])
    options = {"num_beams": beams, "coverage_penalty": 0.2 if beams > 1 else None, "max_extra_tokens": 4}
    options |= GNMT | {"return_dict_in_generate": True, "output_attentions": True}
    outputs = {}
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        outputs[implementation] = model.generate(**batch, **options)
        assert model.config._attn_implementation == implementation
    assert outputs["sdpa"].sequences.equal(outputs["eager"].sequences)
    for name in ("encoder_attentions", "decoder_attentions", "cross_attentions"):
        got, expected = flat(outputs["sdpa"][name]), flat(outputs["eager"][name])
        assert len(got) == len(expected) > 0
        for one, other in zip(got, expected):
            torch.testing.assert_close(one, other)


def flat(weights):
    return [weights] if torch.is_tensor(weights) else [one for part in weights for one in flat(part)]


def test_attention_weights_of_a_decoder_see_no_later_word():
    model = random_model(30, encoder_layers=0)
    model.set_attn_implementation("sdpa")
    assert model.config._attn_implementation == "sdpa"
    ids = torch.tensor([[5, 6, 7, 8]])
    outputs = model(ids, output_attentions=True)
    torch.testing.assert_close(outputs.logits, model(ids).logits)
    assert all(weights.triu(1).abs().max() == 0 for weights in outputs.attentions) and outputs.attentions


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 10**6},
        {"num_beams": 2.0},
        {"num_return_sequences": 10**7, "do_sample": True},
        {"max_length": 1.5},
        {"max_length": 10**9},
        {"max_new_tokens": 10**9},
        {"max_new_tokens": 7.5},
        {"min_new_tokens": 10**9},
        {"min_length": "3"},
        {"max_extra_tokens": 10**8},
        {"length_penalty": float("nan"), "num_beams": 2},
        {"coverage_penalty": float("inf"), "num_beams": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("beams", [1, 4])
def test_absurd_settings_raise_at_once_and_name_the_setting(settings, beams):
    model, batch = random_model(30), padded_batch(30, [7, 2, 5])
    model.generation_config = paper_generation_config(model.config)
    with pytest.raises((ValueError, TypeError), match=next(iter(settings))):
        model.generate(**batch, **{"num_beams": beams, **settings})


def test_a_search_ends_behind_a_limit_that_it_never_equals():
    search = BeamSearch(torch.tensor([[0]]), torch.tensor([0]), beams=2, alpha=0.6, end=torch.tensor([2]))
    search.step(torch.randn(1, 9).log_softmax(-1))
    assert search.done


@pytest.mark.parametrize("settings", [{**GNMT, "num_beams": 3}, {"num_beams": 1}], ids=["beams", "greedy"])
def test_an_output_is_never_longer_than_the_models_positions(settings):
    model, batch = random_model(30, max_position_embeddings=12), padded_batch(30, [6, 4])
    model.lm_head = torch.nn.Linear(16, 30)
    with torch.no_grad():  # the end token is almost impossible, padding even more
        model.lm_head.bias[END], model.lm_head.bias[PAD] = -50.0, -99.0
    assert model.generate(**batch, **settings, max_extra_tokens=50).shape[1] == 12
    model.generation_config.max_length = None
    assert model.generate(**batch, **settings, max_extra_tokens=50).shape[1] == 12
    assert model.generate(**batch, **settings, max_extra_tokens=2).shape[1] == 9
