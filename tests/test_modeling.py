"""Properties of the text models that must hold for any weights."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_parity import VOCABULARY, WIDTH, random_model
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM
from transformers.cache_utils import EncoderDecoderCache, StaticCache

from vanilla_transformer import (
    PRESETS,
    VanillaTransformerConfig,
    VanillaTransformerForCausalLM,
    VanillaTransformerForConditionalGeneration,
    VanillaTransformerForMaskedLM,
    VanillaTransformerForSequenceClassification,
    VanillaTransformerModel,
)
from vanilla_transformer.layers import Dropout
from vanilla_transformer.losses import (
    TrainingLoss,
    label_smoothed_cross_entropy,
    linear_cross_entropy,
    r_drop_divergence,
)
from vanilla_transformer.packing import Packing

VARIANTS = [
    {},
    {"norm_position": "pre"},
    {"position_embedding_type": "learned", "max_position_embeddings": 64},
    {"head_dim": 4, "value_dim": 12},
    {"tie_word_embeddings": False, "activation": "gelu"},
]
variants = pytest.mark.parametrize("settings", VARIANTS, ids=lambda settings: ",".join(settings) or "paper")


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """Three pairs of different lengths, padded on the right."""
    torch.manual_seed(2)
    source, labels = torch.randint(3, VOCABULARY, (3, 11)), torch.randint(3, VOCABULARY, (3, 8))
    mask = torch.ones_like(source)
    for row, (source_length, target_length) in enumerate([(11, 5), (6, 8), (3, 2)]):
        source[row, source_length:], mask[row, source_length:] = 1, 0
        labels[row, target_length:] = -100
    return {"input_ids": source, "attention_mask": mask, "labels": labels}


def pair(batch: dict[str, torch.Tensor], row: int) -> dict[str, torch.Tensor]:
    """One row of the batch without its padding."""
    source, labels = batch["attention_mask"][row] == 1, batch["labels"][row] != -100
    return {"input_ids": batch["input_ids"][row, source][None], "labels": batch["labels"][row, labels][None]}


# --- the configuration


def parameters_in_millions(preset: str) -> float:
    with torch.device("meta"):
        model = VanillaTransformerForConditionalGeneration(VanillaTransformerConfig.from_preset(preset))
    model.tie_weights()
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6


@pytest.mark.parametrize(
    ("preset", "millions"),
    [
        ("table3-base", 65),
        ("table3-B-head-dim-16", 58),
        ("table3-B-head-dim-32", 60),
        ("table3-C-2-layers", 36),
        ("table3-C-4-layers", 50),
        ("table3-C-8-layers", 80),
        ("table3-C-hidden-256", 28),
        ("table3-C-hidden-1024", 168),
        ("table3-C-intermediate-1024", 53),
        ("table3-C-intermediate-4096", 90),
        ("table3-big", 213),
        # rows whose count the paper leaves blank are the base model's size
        ("table3-A-1-head", 65),
        ("table3-A-4-heads", 65),
        ("table3-A-16-heads", 65),
        ("table3-A-32-heads", 65),
        ("table3-D-dropout-0.0", 65),
        ("table3-D-dropout-0.2", 65),
        ("table3-E-learned-positions", 65),
    ],
)
def test_presets_have_the_papers_parameter_counts(preset, millions):
    assert round(parameters_in_millions(preset)) == millions


def test_default_configuration_is_the_papers_base_model():
    config = VanillaTransformerConfig()
    assert (config.encoder_layers, config.decoder_layers) == (6, 6)
    assert (config.hidden_size, config.intermediate_size, config.num_attention_heads) == (512, 2048, 8)
    assert (config.head_dim, config.value_dim, config.dropout) == (64, 64, 0.1)
    assert (config.norm_position, config.activation) == ("post", "relu")
    assert config.to_dict() == VanillaTransformerConfig.from_preset("base").to_dict()


def test_synonyms_count_before_anything_is_derived_from_them():
    config = VanillaTransformerConfig(d_model=256, num_heads=4)
    assert (config.hidden_size, config.head_dim, config.value_dim) == (256, 64, 64)
    assert VanillaTransformerConfig.from_preset("tiny", d_model=64).head_dim == 16


def test_row_b_changes_the_width_of_queries_and_keys_alone():
    config = VanillaTransformerConfig.from_preset("table3-B-head-dim-16")
    assert (config.head_dim, config.value_dim) == (16, 64)
    assert set(PRESETS["table3-B-head-dim-16"]) == {"vocab_size", "head_dim"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": 30, "num_attention_heads": 4}, r"hidden_size=30.*num_attention_heads=4"),
        ({"hidden_size": 33, "num_attention_heads": 3}, r"hidden_size=33 must be even"),
        ({"dropout": 1.5}, r"dropout=1.5"),
        ({"encoder_layers": 0, "decoder_layers": 0}, r"encoder_layers=0 and decoder_layers=0"),
        ({"encoder_layers": -1}, r"encoder_layers=-1"),
        ({"norm_position": "middle"}, r"norm_position"),
        ({"activation": "rleu"}, r"activation='rleu'.*relu"),
        ({"vocab_size": "many"}, r"vocab_size"),
        ({"max_position_embeddings": 0}, r"max_position_embeddings=0"),
        ({"num_hidden_layers": 2}, r"encoder_layers and decoder_layers"),
        ({"d_model": 30, "num_heads": 4}, r"hidden_size=30.*num_attention_heads=4"),
    ],
)
def test_an_invalid_configuration_cannot_exist(settings, message):
    with pytest.raises(Exception, match=message):
        VanillaTransformerConfig(**settings)


def test_unknown_preset_names_those_there_are():
    with pytest.raises(ValueError, match="'huge'.*tiny, small, base, big"):
        VanillaTransformerConfig.from_preset("huge")


# --- the same numbers by every way of computing them


@variants
@torch.no_grad()
def test_padding_changes_nothing(batch, settings):
    model = random_model(**settings)
    together = model(**batch).logits
    for row in range(3):
        alone = model(**pair(batch, row)).logits
        torch.testing.assert_close(together[row, : alone.shape[1]], alone[0], atol=1e-5, rtol=1e-5)


@variants
@torch.no_grad()
def test_a_later_word_changes_no_earlier_output(batch, settings):
    model = random_model(**settings)
    changed = batch | {"labels": batch["labels"].clone()}
    changed["labels"][0, 2] = (changed["labels"][0, 2] + 1) % VOCABULARY
    before, after = model(**batch).logits[0], model(**changed).logits[0]
    torch.testing.assert_close(before[:3], after[:3], atol=0, rtol=0)  # input 3 is label 2
    assert not torch.allclose(before[3], after[3])


@variants
@torch.no_grad()
def test_cached_equals_uncached(batch, settings):
    model = random_model(**settings)
    source = {name: batch[name] for name in ("input_ids", "attention_mask")}
    target = torch.randint(3, VOCABULARY, (3, 6))
    whole = model(**source, decoder_input_ids=target, use_cache=False).logits
    for cache in (None, static_cache(model, batch)):
        for step in range(6):
            one = target[:, step : step + 1]
            output = model(**source, decoder_input_ids=one, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            torch.testing.assert_close(output.logits[:, 0], whole[:, step], atol=1e-5, rtol=1e-5)


def static_cache(model, batch) -> EncoderDecoderCache:
    return EncoderDecoderCache(
        StaticCache(model.config, max_cache_len=10),
        StaticCache(model.config, max_cache_len=batch["input_ids"].shape[1]),
    )


@torch.no_grad()
def test_sdpa_equals_eager(batch):
    model = random_model()
    assert model.config._attn_implementation == "sdpa"
    sdpa = model(**batch).logits
    model.set_attn_implementation("eager")
    torch.testing.assert_close(model(**batch).logits, sdpa, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_flex_attention_equals_eager():
    torch.manual_seed(0)
    # One stack and one shape: each would be compiled anew, which takes long on a CPU.
    model = VanillaTransformerForCausalLM(random_model().config).eval()
    ids, mask = torch.randint(3, VOCABULARY, (2, 9)), torch.ones(2, 9, dtype=torch.long)
    mask[1, 5:] = 0
    model.set_attn_implementation("eager")
    eager = model(ids, attention_mask=mask).logits
    model.set_attn_implementation("flex_attention")
    flex = model(ids, attention_mask=mask).logits
    torch.testing.assert_close(flex[mask == 1], eager[mask == 1], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_compiled_equals_eager(batch):
    model = random_model()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(**batch).logits, model(**batch).logits, atol=1e-5, rtol=1e-5)


def test_greedy_tokens_are_the_same_with_dynamic_static_and_no_cache(batch):
    model = random_model()
    source = {name: batch[name] for name in ("input_ids", "attention_mask")}
    settings = {"max_new_tokens": 12, "num_beams": 1, "do_sample": False}
    dynamic = model.generate(**source, **settings)
    assert dynamic.shape[1] > 3
    assert torch.equal(dynamic, model.generate(**source, **settings, use_cache=False))
    assert torch.equal(dynamic, model.generate(**source, **settings, cache_implementation="static"))


def test_assisted_generation_gives_the_greedy_tokens(batch):
    model, assistant = random_model(), random_model(seed=3)
    assistant.config.is_assistant = True
    source = pair(batch, 0)["input_ids"]
    settings = {"max_new_tokens": 10, "num_beams": 1, "do_sample": False}
    greedy = model.generate(source, **settings)
    assert torch.equal(greedy, model.generate(source, **settings, assistant_model=assistant))


@torch.no_grad()
def test_inputs_embeds_stand_for_input_ids(batch):
    model = random_model()
    embeds = batch | {"inputs_embeds": model.get_input_embeddings()(batch["input_ids"])}
    del embeds["input_ids"]
    torch.testing.assert_close(model(**embeds).logits, model(**batch).logits, atol=0, rtol=0)


@torch.no_grad()
def test_hidden_states_and_attentions_are_those_of_the_layers(batch):
    model = random_model()
    model.set_attn_implementation("eager")
    output = model(**batch, output_hidden_states=True, output_attentions=True)
    layers, heads = model.config.encoder_layers, model.config.num_attention_heads
    assert len(output.encoder_hidden_states) == len(output.decoder_hidden_states) == layers + 1
    torch.testing.assert_close(output.encoder_hidden_states[-1], output.encoder_last_hidden_state)
    assert {weights.shape for weights in output.encoder_attentions} == {(3, heads, 11, 11)}
    assert {weights.shape for weights in output.decoder_attentions} == {(3, heads, 8, 8)}
    assert {weights.shape for weights in output.cross_attentions} == {(3, heads, 8, 11)}
    for weights in (*output.encoder_attentions, *output.cross_attentions):
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights.sum(-1)))
        assert weights[2, :, :, 3:].max() == 0  # the third source has three words
    for weights in output.decoder_attentions:
        assert weights.triu(1).abs().max() == 0


@torch.no_grad()
def test_scores_are_divided_by_the_root_of_the_keys_width():
    attention = random_model(head_dim=4, value_dim=12).model.encoder.layers[0].self_attn
    attention.config._attn_implementation = "eager"
    states = torch.randn(1, 5, WIDTH)
    query, key = (
        projection(states)[0].unflatten(-1, (-1, 4)).transpose(0, 1)  # (heads, length, head_dim)
        for projection in (attention.q_proj, attention.k_proj)
    )
    expected = (query @ key.transpose(1, 2) / 2).softmax(-1)  # √4
    torch.testing.assert_close(attention(states)[1][0], expected)


# --- the loss and its gradients


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_label_smoothed_cross_entropy_is_the_formula(label_smoothing):
    torch.manual_seed(0)
    logits, labels = torch.randn(5, 7, dtype=torch.float64), torch.tensor([3, 0, -100, 6, 2])
    expected = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        if label != -100:
            normaliser = sum(torch.tensor(row).exp().tolist())
            log_probabilities = [entry - torch.tensor(normaliser).log().item() for entry in row]
            for word, log_probability in enumerate(log_probabilities):
                mixture = (1 - label_smoothing) * (word == label) + label_smoothing / 7
                expected -= mixture * log_probability
    loss = label_smoothed_cross_entropy(logits, labels, label_smoothing)
    assert loss.item() == pytest.approx(expected / 4, rel=1e-5)
    summed = label_smoothed_cross_entropy(logits, labels, label_smoothing, num_items_in_batch=10)
    assert summed.item() == pytest.approx(expected / 10, rel=1e-5)


@pytest.mark.parametrize("num_items", [None, 400])
@pytest.mark.parametrize("smoothing, r_drop", [(0.0, 0.0), (0.1, 0.0), (0.1, 2.5)])
def test_linear_cross_entropy_equals_that_of_its_logits(smoothing, r_drop, num_items):
    torch.manual_seed(0)
    states = torch.randn(1300, 16, requires_grad=True)  # three chunks
    weight = torch.randn(50, 16, requires_grad=True)
    labels = torch.randint(0, 50, (650,)).repeat(2)
    labels[::5] = -100
    training_loss = TrainingLoss(smoothing, r_drop)
    fused = linear_cross_entropy(states, weight, labels, training_loss, num_items)
    logits = states @ weight.T
    passes = 2 if r_drop else 1
    plain = label_smoothed_cross_entropy(logits, labels, smoothing, num_items and passes * num_items)
    if r_drop:
        plain = plain + r_drop * r_drop_divergence(logits, labels, num_items)
    torch.testing.assert_close(fused, plain)
    fused_gradients = torch.autograd.grad(fused, (states, weight))
    for one, other in zip(fused_gradients, torch.autograd.grad(plain, (states, weight)), strict=True):
        torch.testing.assert_close(one, other, atol=1e-7, rtol=1e-4)
    with torch.no_grad():
        again = linear_cross_entropy(states, weight, labels, training_loss, num_items)
    torch.testing.assert_close(again, plain.detach())


def test_r_drop_adds_half_of_alpha_times_the_divergence_per_token():
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 5, 7), torch.tensor([[1, 2, -100, 3, 0], [4, -100, -100, 5, 6]])
    first, second = logits.log_softmax(-1).chunk(2)
    expected = 0.0
    for p, q in zip(first[labels != -100], second[labels != -100]):
        expected += ((p.exp() * (p - q)).sum() + (q.exp() * (q - p)).sum()) / 2
    divergence = r_drop_divergence(logits, labels.repeat(2, 1))
    torch.testing.assert_close(divergence, expected / 7 / 2)  # seven tokens
    summed = r_drop_divergence(logits, labels.repeat(2, 1), num_items_in_batch=10)
    torch.testing.assert_close(summed, expected / 10 / 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_its_share_at_random(dtype):
    dropout, ones = Dropout(0.3), torch.ones(333, 3001, dtype=dtype, requires_grad=True)
    torch.manual_seed(0)
    dropped, other = dropout(ones), dropout(ones)
    assert dropped.dtype == dtype and set(dropped.unique().tolist()) == {0, ones.new_tensor(1 / 0.7).item()}
    for zero in (dropped == 0, other == 0):
        assert zero.float().mean().item() == pytest.approx(0.3, abs=0.003)
        for axis in (0, 1):  # evenly: of 333 or 3001 values, 6 standard deviations at the most
            share = zero.float().mean(axis)
            assert (share - 0.3).abs().max() < 6 * (0.3 * 0.7 / zero.shape[axis]) ** 0.5
    both = ((dropped == 0) & (other == 0)).float().mean().item()
    assert both == pytest.approx(0.09, abs=0.003)
    torch.manual_seed(0)
    assert torch.equal(dropout(ones), dropped)
    dropped.sum().backward()
    assert torch.equal(ones.grad, dropped)
    assert torch.equal(dropout.eval()(ones), ones) and torch.equal(Dropout(0.0)(ones), ones)
    assert Dropout(0.5)(ones[:0]).shape == (0, 3001)
    assert not Dropout(1.0)(ones).any() and not Dropout(0.9999999)(ones[:9]).any()


def gradients(model, **inputs) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = model(**inputs).loss
    loss.backward()
    return loss.detach(), {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def assert_same_gradients(one, other):
    torch.testing.assert_close(one[0], other[0], atol=1e-5, rtol=1e-5)
    assert one[1].keys() == other[1].keys()
    for name, gradient in one[1].items():
        torch.testing.assert_close(gradient, other[1][name], atol=1e-5, rtol=1e-4, msg=name)


@variants
def test_the_training_loss_has_the_gradients_of_the_padded_loss(batch, settings):
    model = random_model(dropout=0.0, **settings).train()
    padded = gradients(model, **batch)
    assert_same_gradients(padded, gradients(model, **batch, training_loss=TrainingLoss()))
    outputs = model(**batch, training_loss=TrainingLoss(smoothing=0.1))
    assert outputs.logits is None
    expected = label_smoothed_cross_entropy(model(**batch).logits, batch["labels"], 0.1)
    torch.testing.assert_close(outputs.loss, expected)


def test_gradients_of_parts_add_up_to_those_of_the_batch(batch):
    model = random_model(dropout=0.0).train()
    whole = gradients(model, **batch, training_loss=TrainingLoss())
    tokens = (batch["labels"] != -100).sum()
    parts = [
        gradients(model, **pair(batch, row), training_loss=TrainingLoss(), num_items_in_batch=tokens)
        for row in range(3)
    ]
    loss = sum(part[0] for part in parts)
    summed = {name: sum(part[1][name] for part in parts) for name in whole[1]}
    assert_same_gradients(whole, (loss, summed))


def test_gradient_checkpointing_changes_no_gradient(batch):
    model = random_model(dropout=0.0).train()
    plain = gradients(model, **batch)
    model.gradient_checkpointing_enable()
    assert_same_gradients(plain, gradients(model, **batch))
    assert_same_gradients(plain, gradients(model, **batch, training_loss=TrainingLoss()))


@variants
def test_language_model_skips_padding_without_changing_a_gradient(settings):
    torch.manual_seed(0)
    config = VanillaTransformerConfig(**random_model(**settings).config.to_dict() | {"dropout": 0.0})
    model = VanillaTransformerForCausalLM(config).train()
    ids = torch.randint(3, VOCABULARY, (2, 9))
    labels = ids.clone()
    labels[1, 4:] = -100
    padded = gradients(model, input_ids=ids, labels=labels)
    assert_same_gradients(
        padded, gradients(model, input_ids=ids, labels=labels, training_loss=TrainingLoss())
    )
    logits = model(input_ids=ids).logits  # position t predicts word t + 1
    pieces = torch.cat((logits[0, :-1], logits[1, :3])), torch.cat((ids[0, 1:], ids[1, 1:4]))
    torch.testing.assert_close(padded[0], torch.nn.functional.cross_entropy(*pieces))


@pytest.mark.parametrize("with_mask", [True, False])
def test_the_masked_language_models_training_loss_has_the_same_gradients(batch, with_mask):
    torch.manual_seed(0)
    config = VanillaTransformerConfig(**random_model().config.to_dict() | {"dropout": 0.0})
    model = VanillaTransformerForMaskedLM(config).train()
    scored = batch["attention_mask"].bool() & (torch.rand(batch["input_ids"].shape) < 0.4)
    masked = {"input_ids": batch["input_ids"], "labels": batch["input_ids"].masked_fill(~scored, -100)}
    if with_mask:
        masked["attention_mask"] = batch["attention_mask"]
    projected = []
    model.lm_head.register_forward_hook(lambda *_: projected.append(1))
    one = gradients(model, **masked, training_loss=TrainingLoss())
    assert not projected  # no logits of all positions
    assert_same_gradients(one, gradients(model, **masked))


@pytest.mark.parametrize("head", [VanillaTransformerForConditionalGeneration, VanillaTransformerForCausalLM])
def test_r_drop_compares_two_passes_of_the_doubled_batch(batch, head):
    torch.manual_seed(0)
    model = head(VanillaTransformerConfig(**random_model(dropout=0.3).config.to_dict())).train()
    ids = torch.randint(3, VOCABULARY, (3, 6))  # without padding both ways draw the same dropout
    inputs = {"input_ids": ids, "labels": ids}
    training_loss = TrainingLoss(smoothing=0.2, r_drop=3.0)
    doubled = training_loss.doubled(inputs)
    assert doubled["labels"].shape == (6, 6) and TrainingLoss().doubled(inputs) is inputs
    torch.manual_seed(1)
    loss = model(**doubled, training_loss=training_loss, num_items_in_batch=15).loss
    torch.manual_seed(1)
    if head is VanillaTransformerForCausalLM:  # the last position predicts nothing, and is not computed
        logits, labels = model(doubled["input_ids"][:, :-1]).logits, doubled["labels"][:, 1:]
    else:
        logits, labels = model(**doubled).logits, doubled["labels"]
    expected = label_smoothed_cross_entropy(logits, labels, 0.2, num_items_in_batch=30)
    torch.testing.assert_close(loss, expected + 3 * r_drop_divergence(logits, labels, num_items_in_batch=15))


@pytest.mark.parametrize(
    "head",
    [
        VanillaTransformerForConditionalGeneration,
        VanillaTransformerForCausalLM,
        VanillaTransformerForMaskedLM,
    ],
)
def test_a_training_loss_without_labels_is_refused(head):
    with pytest.raises(ValueError, match="training_loss needs labels"):
        head(random_model().config)(input_ids=torch.full((1, 3), 5), training_loss=TrainingLoss())


def test_packing_and_unpacking_are_inverse():
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    packing = Packing(mask)
    padded = torch.randn(2, 3, 4) * mask[..., None]
    packed = packing.pack(padded)
    assert packed.shape == (1, 3, 4)
    assert torch.equal(packing.unpack(packed), padded)


# --- one set of weights in every head


def test_tied_weights_survive_saving_loading_and_a_checkpoint_that_holds_one_of_them(tmp_path, batch):
    model = random_model()
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    (stored,) = [name for name in weights if weights[name].shape == (VOCABULARY, WIDTH)]
    names = ["model.shared.weight", "model.encoder.embed_tokens.weight"]
    names += ["model.decoder.embed_tokens.weight", "lm_head.weight"]
    for name in names:
        renamed = {name if key == stored else key: value for key, value in weights.items()}
        save_file(renamed, tmp_path / "model.safetensors", metadata={"format": "pt"})
        loaded, report = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, output_loading_info=True)
        assert not report["missing_keys"], name
        for tied in names:
            assert loaded.get_parameter(tied) is loaded.lm_head.weight
        torch.testing.assert_close(loaded(**batch).logits, model(**batch).logits, atol=0, rtol=0)


def test_untied_matrices_stay_three(tmp_path):
    model = random_model(tie_word_embeddings=False)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    matrices = [loaded.model.encoder.embed_tokens, loaded.model.decoder.embed_tokens, loaded.lm_head]
    assert len({matrix.weight.data_ptr() for matrix in matrices}) == 3
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, loaded.get_parameter(name)), name


def test_resizing_keeps_the_matrices_tied_and_the_old_words(batch):
    model = random_model()
    before = model.lm_head.weight.detach().clone()
    model.resize_token_embeddings(VOCABULARY + 5)
    assert model.config.vocab_size == VOCABULARY + 5
    assert (
        model.lm_head.weight
        is model.model.encoder.embed_tokens.weight
        is model.model.decoder.embed_tokens.weight
    )
    assert torch.equal(model.lm_head.weight[:VOCABULARY], before)
    assert model(**batch).logits.shape[-1] == VOCABULARY + 5


def test_resizing_untied_matrices_resizes_all_three():
    model = random_model(tie_word_embeddings=False)
    model.resize_token_embeddings(VOCABULARY + 5)
    new_words = torch.tensor([[VOCABULARY + 4, VOCABULARY + 4]])  # the decoder reads the first of them
    assert model(input_ids=new_words, labels=new_words).logits.shape[-1] == VOCABULARY + 5


def test_weights_move_between_heads(tmp_path):
    model = random_model()
    model.save_pretrained(tmp_path)
    decoder, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert (decoder.config.encoder_layers, decoder.config.is_encoder_decoder) == (0, False)
    assert torch.equal(decoder.lm_head.weight, model.lm_head.weight)
    encoder, report = AutoModelForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    ids = torch.randint(3, VOCABULARY, (2, 5))
    torch.testing.assert_close(
        encoder.model(ids).last_hidden_state, model.model.encoder(ids).last_hidden_state, atol=0, rtol=0
    )


def test_one_stack_alone_is_the_same_class_with_the_other_absent():
    sizes = random_model().config.to_dict()
    ids = torch.randint(3, VOCABULARY, (2, 5))
    encoder = VanillaTransformerModel(VanillaTransformerConfig(**sizes | {"decoder_layers": 0}))
    assert not any("decoder" in name for name, _ in encoder.named_parameters())
    assert encoder(ids).last_hidden_state.shape == (2, 5, WIDTH)
    decoder = VanillaTransformerModel(VanillaTransformerConfig(**sizes | {"encoder_layers": 0}))
    assert not any("encoder" in name or "cross" in name for name, _ in decoder.named_parameters())
    assert decoder(ids).last_hidden_state.shape == (2, 5, WIDTH)


def test_a_head_without_its_stack_is_refused():
    config = VanillaTransformerConfig.from_preset("tiny", decoder_layers=0)
    with pytest.raises(ValueError, match="decoder_layers=0"):
        VanillaTransformerForCausalLM(config)
    with pytest.raises(ValueError, match="decoder_layers=0"):
        VanillaTransformerForConditionalGeneration(config)


def test_heads_leave_the_callers_configuration_alone():
    config = VanillaTransformerConfig.from_preset("tiny", vocab_size=50)
    VanillaTransformerForMaskedLM(config)
    assert (config.encoder_layers, config.decoder_layers, config.is_encoder_decoder) == (4, 4, True)


@torch.no_grad()
def test_left_padding_of_a_language_model_changes_nothing():
    torch.manual_seed(0)
    model = VanillaTransformerForCausalLM(random_model().config).eval()
    ids = torch.randint(3, VOCABULARY, (1, 6))
    padded = torch.cat((torch.full((1, 3), 1), ids), dim=1)
    mask = (torch.arange(9) >= 3).long()[None]
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    alone = model(ids).logits
    together = model(padded, attention_mask=mask, position_ids=positions).logits[:, 3:]
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    settings = {"max_new_tokens": 5, "do_sample": False}
    continued = model.generate(padded, attention_mask=mask, **settings)[:, 9:]
    assert torch.equal(continued, model.generate(ids, **settings)[:, 6:])


@torch.no_grad()
def test_classification_takes_the_mean_over_real_tokens():
    torch.manual_seed(0)
    model = VanillaTransformerForSequenceClassification(random_model().config).eval()
    ids = torch.randint(3, VOCABULARY, (1, 6))
    padded, mask = torch.nn.functional.pad(ids, (0, 4), value=1), torch.tensor([[1] * 6 + [0] * 4])
    torch.testing.assert_close(
        model(padded, attention_mask=mask).logits, model(ids).logits, atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_stays_near_float32(batch, tmp_path, dtype):
    model = random_model()
    model.save_pretrained(tmp_path)
    half = VanillaTransformerForConditionalGeneration.from_pretrained(tmp_path, dtype=dtype).eval()
    exact, rounded = model(**batch).logits, half(**batch).logits
    assert rounded.dtype == dtype
    assert ((rounded.float() - exact).norm() / exact.norm()).item() < 0.03


def test_a_text_past_the_learned_positions_is_refused():
    model = random_model(position_embedding_type="learned", max_position_embeddings=8)
    with pytest.raises(ValueError, match="9 tokens.*max_position_embeddings=8"):
        model(input_ids=torch.full((1, 9), 5), labels=torch.full((1, 3), 5))
    with pytest.raises(ValueError, match="9 tokens.*max_position_embeddings=8"):
        model.generate(torch.full((1, 3), 5), max_new_tokens=20, min_new_tokens=20)


# --- batch normalisation


def batch_normalised(**settings) -> VanillaTransformerModel:
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    layers = {"encoder_layers": 2, "decoder_layers": 0, "dropout": 0.0}
    return VanillaTransformerModel(
        VanillaTransformerConfig(**sizes, **layers, norm_type="batch", **settings)
    ).double()


@pytest.mark.parametrize("norm_position", ["post", "pre"])
def test_batch_statistics_leave_padding_out(batch, norm_position):
    """More padding changes neither the output, nor a gradient, nor the running statistics."""
    seen = []
    for padding in (0, 7):
        model = batch_normalised(norm_position=norm_position)
        ids = torch.nn.functional.pad(batch["input_ids"], (0, padding), value=1)
        mask = torch.nn.functional.pad(batch["attention_mask"], (0, padding))
        states = model(ids, mask).last_hidden_state[:, : batch["input_ids"].shape[1]]
        (states * batch["attention_mask"][..., None]).square().sum().backward()
        grads = [weight.grad for weight in model.parameters() if weight.grad is not None]
        seen.append((states * batch["attention_mask"][..., None], *model.buffers(), *grads))
    for once, padded in zip(*seen):
        torch.testing.assert_close(padded, once)


def test_batch_normalisation_is_of_all_real_tokens(batch):
    """After training's normalisation each column has mean 0 and variance 1 over the real tokens."""
    model = batch_normalised(norm_position="post")
    states = model(batch["input_ids"], batch["attention_mask"]).last_hidden_state
    real = states[batch["attention_mask"] == 1]
    torch.testing.assert_close(real.mean(0), torch.zeros(16).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(real.var(0, unbiased=False), torch.ones(16).double(), atol=1e-3, rtol=0)


def test_batch_normalised_translation_does_not_see_its_neighbours(batch):
    """Once trained: a row alone, or padded beside others, gets the same logits."""
    model = random_model(norm_type="batch").double().train()
    for _ in range(3):
        model(**batch, training_loss=TrainingLoss())  # moves the running statistics
    model.eval()
    logits = model(**batch).logits
    for row in range(3):
        alone = pair(batch, row)
        length = alone["labels"].shape[1]
        torch.testing.assert_close(model(**alone).logits[0], logits[row, :length])
