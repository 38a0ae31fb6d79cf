"""Properties of the text models that hold for any weights."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import (
    VOCABULARY,
    WIDTH,
    assert_same_gradients,
    gradients,
    padded_batch,
    pair,
    random_model,
    variants,
)
from tiny_translators import bart, marian, t5
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM
from transformers.cache_utils import EncoderDecoderCache, StaticCache

from vanilla_transformer import (
    VanillaTransformerConfig,
    VanillaTransformerForCausalLM,
    VanillaTransformerForConditionalGeneration,
    VanillaTransformerForMaskedLM,
    VanillaTransformerForSequenceClassification,
    VanillaTransformerModel,
)
from vanilla_transformer.losses import TrainingLoss


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    return padded_batch()


# The same numbers by every way of computing them


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


@torch.no_grad()
def test_every_output_of_the_encoder_depends_on_every_word(batch):
    model = random_model(encoder_layers=1)
    source = pair(batch, 0)["input_ids"]

    def encode(ids):
        return model.get_encoder()(input_ids=ids).last_hidden_state[0]

    before = encode(source)
    for position in range(source.shape[1]):
        changed = source.clone()
        changed[0, position] = (source[0, position] + 1) % VOCABULARY
        moved = (encode(changed) - before).abs().amax(-1)
        assert (moved > 1e-6).all(), f"the word at {position} does not reach {moved.argmin().item()}"


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
    # One stack and one shape: each is compiled separately, which takes long on a CPU.
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
def test_inputs_embeds_give_what_input_ids_give(batch):
    model = random_model()
    embeds = batch | {"inputs_embeds": model.get_input_embeddings()(batch["input_ids"])}
    del embeds["input_ids"]
    torch.testing.assert_close(model(**embeds).logits, model(**batch).logits, atol=0, rtol=0)


@torch.no_grad()
def test_hidden_states_and_attentions_of_every_layer_are_returned(batch):
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


def test_gradient_checkpointing_changes_no_gradient(batch):
    model = random_model(dropout=0.0).train()
    plain = gradients(model, **batch)
    model.gradient_checkpointing_enable()
    assert_same_gradients(plain, gradients(model, **batch))
    assert_same_gradients(plain, gradients(model, **batch, training_loss=TrainingLoss()))


# One set of weights in every head


def test_a_checkpoint_with_any_one_of_the_tied_matrices_loads(tmp_path, batch):
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


def test_resizing_keeps_tied_matrices_tied_and_old_words_unchanged(batch):
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


def test_the_bare_model_works_with_one_stack():
    sizes = random_model().config.to_dict()
    ids = torch.randint(3, VOCABULARY, (2, 5))
    encoder = VanillaTransformerModel(VanillaTransformerConfig(**sizes | {"decoder_layers": 0}))
    assert not any("decoder" in name for name, _ in encoder.named_parameters())
    assert encoder(ids).last_hidden_state.shape == (2, 5, WIDTH)
    decoder = VanillaTransformerModel(VanillaTransformerConfig(**sizes | {"encoder_layers": 0}))
    assert not any("encoder" in name or "cross" in name for name, _ in decoder.named_parameters())
    assert decoder(ids).last_hidden_state.shape == (2, 5, WIDTH)


def test_a_head_without_its_stack_raises():
    config = VanillaTransformerConfig.from_preset("tiny", decoder_layers=0)
    with pytest.raises(ValueError, match="decoder_layers=0"):
        VanillaTransformerForCausalLM(config)
    with pytest.raises(ValueError, match="decoder_layers=0"):
        VanillaTransformerForConditionalGeneration(config)


def test_heads_do_not_change_the_callers_configuration():
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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_stays_near_float32(batch, tmp_path, dtype):
    model = random_model()
    model.save_pretrained(tmp_path)
    half = VanillaTransformerForConditionalGeneration.from_pretrained(tmp_path, dtype=dtype).eval()
    exact, rounded = model(**batch).logits, half(**batch).logits
    assert rounded.dtype == dtype
    assert ((rounded.float() - exact).norm() / exact.norm()).item() < 0.03


def test_a_text_longer_than_the_learned_positions_raises():
    model = random_model(position_embedding_type="learned", max_position_embeddings=8)
    with pytest.raises(ValueError, match="9 tokens.*max_position_embeddings=8"):
        model(input_ids=torch.full((1, 9), 5), labels=torch.full((1, 3), 5))
    with pytest.raises(ValueError, match="9 tokens.*max_position_embeddings=8"):
        model.generate(torch.full((1, 3), 5), max_new_tokens=20, min_new_tokens=20)


def padded_on_the_left(ids, attention_mask, pad=1):
    left = torch.full_like(ids, pad), torch.zeros_like(attention_mask)
    for row, mask in enumerate(attention_mask.bool()):
        left[0][row, mask.flip(0)], left[1][row] = ids[row, mask], attention_mask[row].flip(0)
    return left


@variants
@pytest.mark.parametrize("given", ["ids", "embeddings"])
def test_left_padding_of_a_source_changes_nothing(batch, settings, given):
    model = random_model(**settings)
    ids, mask = padded_on_the_left(batch["input_ids"], batch["attention_mask"])
    inputs = {"input_ids": ids}
    if given == "embeddings":
        inputs = {"inputs_embeds": model.model.encoder.embed_tokens(ids)}
    loss, other = model(**batch), model(**inputs, attention_mask=mask, labels=batch["labels"])
    torch.testing.assert_close(other.logits, loss.logits, atol=1e-5, rtol=1e-4)
    options = {"num_beams": 3, "length_penalty_type": "gnmt", "max_new_tokens": 6}
    right = model.generate(batch["input_ids"], attention_mask=batch["attention_mask"], **options)
    assert model.generate(ids, attention_mask=mask, **options).equal(right)
    trained = model(**inputs, attention_mask=mask, labels=batch["labels"], training_loss=TrainingLoss())
    torch.testing.assert_close(trained.loss, loss.loss, atol=1e-5, rtol=1e-4)


def test_left_padding_of_a_target_changes_nothing(batch):
    model = random_model()
    targets = batch["labels"].masked_fill(batch["labels"] == -100, 1)
    mask = (batch["labels"] != -100).long()
    source = {name: batch[name] for name in ("input_ids", "attention_mask")}
    right = model(**source, decoder_input_ids=targets, decoder_attention_mask=mask).logits
    targets, left = padded_on_the_left(targets, mask)
    got = model(**source, decoder_input_ids=targets, decoder_attention_mask=left).logits
    torch.testing.assert_close(got[left.bool()], right[mask.bool()], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("pooling", ["mean", "class_token"])
@pytest.mark.parametrize("pair_rows", [0, 40])
def test_left_padding_changes_no_class(batch, pooling, pair_rows):
    config = random_model().config.to_dict() | {"pooling": pooling, "pair_rows": pair_rows}
    model = VanillaTransformerForSequenceClassification(VanillaTransformerConfig(**config)).eval()
    for weights in model.parameters():
        torch.nn.init.normal_(weights)
    ids, mask = padded_on_the_left(batch["input_ids"], batch["attention_mask"])
    expected = model(batch["input_ids"], batch["attention_mask"]).logits
    torch.testing.assert_close(model(ids, mask).logits, expected, atol=1e-4, rtol=1e-3)


def test_a_masked_word_moves_no_other(batch):
    model = random_model()
    mask = batch["attention_mask"].clone()
    mask[:, 1] = 0
    positions = model.model.encoder(batch["input_ids"], mask).last_hidden_state
    ids = batch["input_ids"].clone()
    ids[:, 1] = 9
    torch.testing.assert_close(model.model.encoder(ids, mask).last_hidden_state[:, 2:], positions[:, 2:])
    loss = model.model.encoder(batch["input_ids"][:, 2:], mask[:, 2:]).last_hidden_state
    assert not torch.allclose(loss[0, 0], positions[0, 2], atol=1e-3)


@pytest.mark.parametrize(
    ("saved", "head"),
    [
        (marian, VanillaTransformerForConditionalGeneration),
        (t5, VanillaTransformerForCausalLM),
        (bart, VanillaTransformerForSequenceClassification),
        (bart, VanillaTransformerForMaskedLM),
        (marian, VanillaTransformerModel),
    ],
)
def test_a_folder_of_another_model_raises_and_names_its_type(tmp_path, saved, head):
    model, _ = saved()
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"'{model.config.model_type}'.*AutoModelForSeq2SeqLM"):
        head.from_pretrained(tmp_path)
    assert type(AutoModelForSeq2SeqLM.from_pretrained(tmp_path)) is type(model)


@pytest.mark.parametrize("kind", ["sinusoidal", "learned"])
@torch.no_grad()
def test_positions_of_the_caller_may_be_beyond_the_length(kind):
    config = VanillaTransformerConfig.from_preset(
        "tiny", vocab_size=50, encoder_layers=0, decoder_layers=1, position_embedding_type=kind
    )
    model = VanillaTransformerForCausalLM(config).eval()
    ids, positions = torch.arange(8).reshape(2, 4) + 3, torch.tensor([[5, 6, 7, 8], [0, 1, 2, 3]])
    together = model(ids, position_ids=positions).logits
    for row in range(2):
        alone = model(ids[row : row + 1], position_ids=positions[row : row + 1]).logits
        torch.testing.assert_close(together[row : row + 1], alone)
    assert not torch.allclose(together[:1], model(ids[:1]).logits)
