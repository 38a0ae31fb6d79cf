"""The fast decoding step equals the model's own forward pass, and follows every change of its weights."""

import copy
import pickle

import pytest
import torch
from plain_beam_search import PAD
from tiny_generation import GREEDY, PAPER, generate, padded_batch, plain, random_model
from torch import nn
from transformers import AttentionInterface, LogitsProcessor, LogitsProcessorList

import vanilla_transformer.generation
from vanilla_transformer import VanillaTransformerForConditionalGeneration
from vanilla_transformer.decoding import Decoding, StaticDecoding
from vanilla_transformer.prepared import prepared_decoder

SEARCHES = {
    "greedy": GREEDY,
    "greedy with limits": {**GREEDY, "max_extra_tokens": 2},
    "greedy, not too short": {**GREEDY, "min_new_tokens": 4},
    "sampling": {**GREEDY, "do_sample": True, "temperature": 1.5, "top_k": 6},
    "paper": PAPER,
    "paper with limits": {**PAPER, "max_extra_tokens": 2, "num_return_sequences": 3},
    "paper with coverage": {**PAPER, "coverage_penalty": 0.2},
    "paper with a processor": {**PAPER, "repetition_penalty": 1.5},
    "paper, not too short": {**PAPER, "min_length": 5, "max_extra_tokens": 3},
    "paper, early": {**PAPER, "early_stopping": True},
    "transformers": {"num_beams": 4},
    "transformers, early": {"num_beams": 4, "early_stopping": True, "num_return_sequences": 2},
    "transformers, never early": {"num_beams": 4, "early_stopping": "never", "length_penalty": 2.0},
    "transformers, short": {"num_beams": 3, "length_penalty": -1.0, "early_stopping": "never"},
    "transformers, not too short": {"num_beams": 3, "min_new_tokens": 6, "early_stopping": True},
    "transformers with a processor": {"num_beams": 3, "no_repeat_ngram_size": 2},
    "transformers with limits": {"num_beams": 3, "max_extra_tokens": 3},
}
searches = pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
MODELS = {
    "paper": {},
    "pre-norm": {"norm_position": "pre"},
    "batch norm": {"norm_type": "batch", "activation": "gelu"},
    "learned positions": {"position_embedding_type": "learned", "max_position_embeddings": 40},
    "wide values": {"head_dim": 6, "value_dim": 10},
}


@pytest.fixture(params=["dynamic", "static"])
def steps(monkeypatch, request):
    """The number of rows of every fast step; also with the fixed shapes of a GPU, but without a graph."""
    taken = []
    for kind in (Decoding, StaticDecoding):

        def count(self, tokens, rows, width, step=kind.step):
            taken.append(len(tokens))
            return step(self, tokens, rows, width)

        monkeypatch.setattr(kind, "step", count)
    is_static = request.param == "static"
    monkeypatch.setattr(vanilla_transformer.generation, "is_static", lambda device: is_static)
    return taken


@searches
@pytest.mark.parametrize("settings", MODELS.values(), ids=MODELS)
def test_equals_the_plain_path(settings, search, steps):
    model = random_model(14, seed=2, **settings)
    if settings.get("norm_type") == "batch":
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if name.endswith(("running_mean", "running_var")):
                    buffer.add_(torch.rand_like(buffer))
    batch = padded_batch(14, [5, 2, 7, 1])
    expected = plain(model, batch, **search)
    assert not steps
    assert torch.equal(generate(model, batch, **search), expected)
    assert steps


@searches
def test_prompts_of_the_decoder_are_continued(search, steps):
    model, batch = random_model(14, seed=2), padded_batch(14, [5, 2, 7])
    batch["decoder_input_ids"] = torch.tensor([[0, 5, 6], [0, 7, 7], [0, 9, 3]])
    assert torch.equal(generate(model, batch, **search), plain(model, batch, **search))
    assert steps


@pytest.mark.parametrize("name", [name for name in SEARCHES if "coverage" not in name])
@pytest.mark.parametrize("padded", [False, True])
def test_a_decoder_without_an_encoder(name, padded, steps):
    model = random_model(14, seed=3, encoder_layers=0)
    batch = padded_batch(14, [6, 2, 4] if padded else [4, 4, 4])
    batch = {key: value.flip(1) for key, value in batch.items()}  # padding on the left
    assert torch.equal(generate(model, batch, **SEARCHES[name]), plain(model, batch, **SEARCHES[name]))
    assert steps


@torch.no_grad()
def test_logits_equal_those_of_forward():
    model, batch = random_model(50, hidden_size=64), padded_batch(50, [9, 4])
    target = torch.randint(3, 50, (2, 6))
    expected = model(**batch, decoder_input_ids=target).logits
    memory = model.get_encoder()(**batch)[0]
    decoding = Decoding(prepared_decoder(model), 2, memory, batch["attention_mask"])
    for position in range(6):
        logits = decoding.step(target[:, : position + 1], None, 1)
        torch.testing.assert_close(logits, expected[:, position], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_hypotheses_may_change_places():
    """Each of three hypotheses continues any of those before it; the logits are those of the whole prefix."""
    model, batch = random_model(50), padded_batch(50, [9, 4])
    memory = model.get_encoder()(**batch)[0]
    decoding = Decoding(prepared_decoder(model), 2, memory, batch["attention_mask"])
    prefixes, rows, width = torch.zeros(2, 1, dtype=torch.long), None, 1
    for step in range(8):
        logits = decoding.step(prefixes, rows, width)
        of_sentence = torch.arange(2).repeat_interleave(width)
        expected = model(
            encoder_outputs=(memory[of_sentence],),
            attention_mask=batch["attention_mask"][of_sentence],
            decoder_input_ids=prefixes,
        ).logits[:, -1]
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
        parents = torch.randint(0, width, (2, 3), generator=torch.Generator().manual_seed(step))
        rows, width = (parents + torch.arange(2)[:, None] * width).flatten(), 3
        prefixes = torch.cat([prefixes[rows], torch.randint(3, 50, (6, 1))], dim=1)


@pytest.mark.parametrize("name", ["greedy", "greedy with limits", "paper, early", "transformers, early"])
@pytest.mark.parametrize("steps", ["dynamic"], indirect=True)
def test_rows_that_are_done_leave_the_batch(name, steps):
    generate(random_model(12, seed=14), padded_batch(12, [5, 2, 3, 1]), **SEARCHES[name], max_new_tokens=60)
    assert steps[-1] < max(steps)


def in_place(model):
    with torch.no_grad():
        model.lm_head.weight.neg_()


def by_data(model):
    model.model.decoder.layers[0].self_attn.q_proj.weight.data += 0.5


def by_the_optimizer(model):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    model(input_ids=torch.tensor([[3, 4]]), labels=torch.tensor([[5, 6]])).loss.backward()
    optimizer.step()


def by_loading(model):
    model.load_state_dict(random_model(14, seed=9).state_dict())


def by_a_new_projection(model):
    model.lm_head = nn.Linear(16, 14)


def by_moving_to_float64_and_back(model):
    model.double()
    in_place(model)
    model.float()


def by_resizing(model):
    model.resize_token_embeddings(20, mean_resizing=False)


def by_columns_of_the_data(model):
    for layer in model.model.decoder.layers:
        layer.self_attn.v_proj.weight.data[:, 8:] = 0


def by_another_activation(model):
    for layer in model.model.decoder.layers:
        layer.feed_forward.activation = nn.Tanh()


def by_another_scaling(model):
    for layer in model.model.decoder.layers:
        layer.cross_attn.scaling = 3.0


CHANGES = [
    by_columns_of_the_data,
    by_another_activation,
    by_another_scaling,
    in_place,
    by_data,
    by_the_optimizer,
    by_loading,
    by_a_new_projection,
]
CHANGES += [by_moving_to_float64_and_back, by_resizing]


@pytest.mark.parametrize("change", CHANGES)
def test_new_weights_are_prepared_again(change, steps):
    model, batch = random_model(14, seed=4), padded_batch(14, [5, 2, 7])
    before = generate(model, batch, **PAPER)
    change(model)
    after = generate(model, batch, **PAPER)
    assert torch.equal(after, plain(model, batch, **PAPER))
    assert before.shape != after.shape or not torch.equal(before, after)
    assert steps


def test_weights_that_are_not_contiguous(steps):
    model, batch = random_model(14, seed=12), padded_batch(14, [5, 2, 7])
    for layer in model.model.decoder.layers:
        layer.self_attn.v_proj.weight.data = layer.self_attn.v_proj.weight.data.T.contiguous().T
    before = generate(model, batch, **PAPER)
    assert torch.equal(before, plain(model, batch, **PAPER))
    for layer in model.model.decoder.layers:
        layer.self_attn.v_proj.weight.data.mul_(-3)  # leaves no trace in the version
    after = generate(model, batch, **PAPER)
    assert torch.equal(after, plain(model, batch, **PAPER))
    assert before.shape != after.shape or not torch.equal(before, after)


def test_nothing_prepared_is_saved_or_copied(tmp_path):
    model, batch = random_model(14, seed=5), padded_batch(14, [5, 2])
    names, attributes = list(model.state_dict()), set(vars(model))
    expected = generate(model, batch, **PAPER)
    assert list(model.state_dict()) == names and set(vars(model)) == attributes
    model.save_pretrained(tmp_path)
    loaded = VanillaTransformerForConditionalGeneration.from_pretrained(tmp_path)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), loaded):
        assert torch.equal(generate(other, batch, **PAPER), expected)


class Double(nn.Linear):
    def forward(self, states):
        return 2 * super().forward(states)


def with_a_hook(model):
    model.model.decoder.layers[1].register_forward_hook(lambda module, inputs, output: -output)


def with_an_adapter(model):
    attention = model.model.decoder.layers[0].cross_attn
    attention.v_proj = Double(16, 16)


def with_its_own_forward(model):
    forward = model.forward
    model.forward = lambda *args, **kwargs: forward(*args, **kwargs)


def with_its_own_preparation(model):
    prepare = model.prepare_inputs_for_generation
    model.prepare_inputs_for_generation = lambda *args, **kwargs: prepare(*args, **kwargs)


def with_its_own_attention(model):
    AttentionInterface.register("reversed", reversed_attention)
    model.set_attn_implementation("reversed")


def reversed_attention(module, query, key, value, mask, **kwargs):
    heads = nn.functional.scaled_dot_product_attention(-query, key, value, mask)
    return heads.transpose(1, 2).contiguous(), None


def in_training(model):
    model.train()


def partly_in_training(model):
    model.model.decoder.layers[0].train()


WRAPPERS = [with_a_hook, with_an_adapter, with_its_own_forward, with_its_own_preparation]
WRAPPERS += [with_its_own_attention, in_training, partly_in_training]


@pytest.mark.parametrize("change", WRAPPERS)
@pytest.mark.parametrize("search", [GREEDY, PAPER, {"num_beams": 3}], ids=["greedy", "paper", "transformers"])
def test_what_wraps_the_decoder_is_seen(change, search, steps):
    model, batch = random_model(14, seed=6, dropout=0.0), padded_batch(14, [5, 2, 7])
    change(model)
    expected = plain(model, batch, **search)
    assert torch.equal(generate(model, batch, **search), expected)
    assert not steps
    if change in (in_training, partly_in_training):
        assert model.prepare_for_decoding() == "fp32"  # for later
    else:
        with pytest.raises(ValueError, match="cannot be prepared"):
            model.prepare_for_decoding()


@pytest.mark.parametrize(
    "arguments",
    [{"use_cache": False}, {"cache_implementation": "static"}, {"output_attentions": True}],
    ids=lambda arguments: next(iter(arguments)),
)
def test_other_calls_use_the_plain_path(arguments, steps):
    model, batch = random_model(14, seed=7), padded_batch(14, [5, 2, 7])
    expected = generate(model, batch, **GREEDY)
    taken = len(steps)
    assert torch.equal(generate(model, batch, **GREEDY, **arguments), expected)
    assert len(steps) == taken


def test_outputs_recorded_earlier_do_not_slow_the_model_down(steps):
    model, batch = random_model(14, seed=7), padded_batch(14, [5, 2, 7])
    generate(model, batch, **GREEDY, output_attentions=True, return_dict_in_generate=True)
    assert not steps
    generate(model, batch, **GREEDY)
    assert steps


class Favour(LogitsProcessor):
    """Adds to the score of one token, another one for each row."""

    def __call__(self, input_ids, scores):
        index = 3 + torch.arange(len(scores)) % 5
        return scores.index_put((torch.arange(len(scores)), index), torch.tensor(2.0), accumulate=True)


@pytest.mark.parametrize("search", [GREEDY, PAPER, {"num_beams": 3}], ids=["greedy", "paper", "transformers"])
def test_processors_see_all_rows(search, steps):
    model, batch = random_model(14, seed=8), padded_batch(14, [5, 2, 7])
    search = {**search, "logits_processor": LogitsProcessorList([Favour()])}
    assert torch.equal(generate(model, batch, **search), plain(model, batch, **search))
    assert steps


def test_other_precisions_are_close_and_can_be_taken_back():
    model, batch = random_model(60, seed=9, hidden_size=64), padded_batch(60, [9, 4, 6])
    exact = generate(model, batch, **PAPER)
    memory = model.get_encoder()(**batch)[0]

    def logits():
        decoding = Decoding(prepared_decoder(model), 3, memory, batch["attention_mask"])
        return decoding.step(torch.zeros(3, 1, dtype=torch.long), None, 1)

    with torch.no_grad():
        expected = logits()
        for precision in ("bf16", "int8"):
            assert model.prepare_for_decoding(precision) == precision
            rounded = logits()
            assert not torch.equal(rounded, expected)
            assert (rounded - expected).std() < 0.05 * expected.std()
            generate(model, batch, **PAPER)
            assert prepared_decoder(model).precision == precision  # it stays, as after a change of weights
            in_place(model)
            assert prepared_decoder(model).precision == precision
            model.lm_head.weight.neg_()
        assert model.prepare_for_decoding("auto") in ("fp32", "bf16", "int8")
    assert model.prepare_for_decoding() == "fp32"
    assert torch.equal(generate(model, batch, **PAPER), exact)
    with pytest.raises(ValueError, match="precision='int4' is unknown"):
        model.prepare_for_decoding("int4")


def test_autocast_chooses_the_precision(steps):
    model, batch = random_model(14, seed=9), padded_batch(14, [5, 2, 7])
    with torch.autocast("cpu", torch.bfloat16):
        generate(model, batch, **PAPER)
        assert prepared_decoder(model).precision == "bf16"
    assert steps
    assert torch.equal(generate(model, batch, **PAPER), plain(model, batch, **PAPER))


def test_a_sentence_of_padding_alone_does_not_fail():
    model, batch = random_model(14, seed=9), padded_batch(14, [5, 2, 7])
    batch["attention_mask"][1] = 0
    assert torch.equal(generate(model, batch, **PAPER), plain(model, batch, **PAPER))
    ids = torch.zeros(3, 1, dtype=torch.long)
    for _ in range(5):
        logits = model(**batch, decoder_input_ids=ids).logits[:, -1:]
        logits[..., model.config.eos_token_id] = -torch.inf
        ids = torch.cat([ids, logits.argmax(-1)], dim=1)
    assert torch.equal(generate(model, batch, **GREEDY, min_new_tokens=5, max_new_tokens=5), ids)


def test_a_prompt_for_each_source_is_needed():
    model, batch = random_model(14, seed=9), padded_batch(14, [5, 2, 7])
    with pytest.raises(ValueError, match="1 decoder_input_ids for 3 sources"):
        generate(model, batch, **GREEDY, decoder_input_ids=torch.tensor([[0, 5]]))


@torch.no_grad()
def test_layers_without_a_bias():
    model, batch = random_model(14, seed=9), padded_batch(14, [5, 2, 7])
    for layer in model.model.decoder.layers:
        layer.self_attn.q_proj.bias = layer.cross_attn_add_norm.norm.bias = None
    assert torch.equal(generate(model, batch, **PAPER), plain(model, batch, **PAPER))


def test_the_cache_grows_with_long_outputs():
    model, batch = random_model(14, seed=10), padded_batch(14, [3, 2])
    search = {**GREEDY, "eos_token_id": None, "pad_token_id": PAD, "max_new_tokens": 150}
    assert torch.equal(generate(model, batch, **search), plain(model, batch, **search))


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 3.0])
@torch.no_grad()
def test_the_length_penalty_of_transformers(length_penalty, steps):
    for seed in range(6):
        model, batch = random_model(14, seed, output_bias=True), padded_batch(14, [5, 2, 7, 3], seed)
        model.lm_head.bias[2] = 2.0  # many hypotheses end, at different lengths
        search = {"num_beams": 4, "num_return_sequences": 3, "length_penalty": length_penalty}
        assert torch.equal(generate(model, batch, **search), plain(model, batch, **search))
    assert steps
