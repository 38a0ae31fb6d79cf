"""A vocabulary grows: old texts, old ids and old outputs stay as they were."""

import pytest
import torch
from tiny_marian import texts

from vanilla_transformer import (
    VanillaTransformerConfig,
    VanillaTransformerForConditionalGeneration,
    VanillaTransformerTokenizer,
)
from vanilla_transformer.interop import extend_vocabulary

NEW = ["antidisestablishmentarianism pneumonoultramicroscopic", "the pneumonoultramicroscopic ☃☃☃☃"] * 20


@pytest.fixture
def tokenizer():
    return VanillaTransformerTokenizer.train(
        [texts("en")], vocab_size=600, language_tags=["es"], show_progress=False
    )


def small_model(tokenizer, **settings):
    torch.manual_seed(0)
    sizes = dict(
        hidden_size=32, intermediate_size=64, num_attention_heads=4, encoder_layers=2, decoder_layers=2
    )
    config = VanillaTransformerConfig(vocab_size=len(tokenizer), **sizes | settings)
    model = VanillaTransformerForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


@pytest.mark.parametrize("reload", [False, True], ids=["", "reloaded"])
def test_texts_without_new_tokens_are_encoded_as_before(tokenizer, tmp_path, reload):
    old, size = texts("en")[:300], len(tokenizer)
    before, new_before = tokenizer(old)["input_ids"], tokenizer(NEW[0])["input_ids"]
    vocab = tokenizer.get_vocab()
    added = tokenizer.extend([NEW], 40)
    assert added and list(added) == list(range(size, size + len(added)))
    if reload:
        tokenizer.save_pretrained(tmp_path)
        tokenizer = VanillaTransformerTokenizer.from_pretrained(tmp_path)
    assert vocab.items() <= tokenizer.get_vocab().items() and len(tokenizer) == size + len(added)
    after = tokenizer(old)["input_ids"]
    changed = [ids for ids in after if any(id >= size for id in ids)]
    assert len(changed) < len(old) / 4
    assert all(one == other for one, other in zip(before, after) if other not in changed)
    assert len(tokenizer(NEW[0])["input_ids"]) < len(new_before)
    for text in (*NEW, *old, " a  b ", "☃☃"):
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    assert tokenizer("a", target_language="es")["input_ids"][0] == vocab["<2es>"]


def test_a_new_token_is_its_old_pieces(tokenizer):
    before = {id: tokenizer.decode([id]) for id in range(len(tokenizer))}
    added = tokenizer.extend([NEW], 40)
    whole = [id for id, old in added.items() if "�" not in "".join(before[piece] for piece in old)]
    assert len(whole) > 10
    names = tokenizer.convert_ids_to_tokens
    for new, old in added.items():
        assert names(new) == "".join(names(old)) and max(old) < len(before)


@pytest.mark.parametrize(
    "settings",
    [{}, {"output_bias": True}, {"tie_word_embeddings": False}],
    ids=lambda settings: ",".join(settings) or "tied",
)
def test_old_outputs_do_not_change(tokenizer, settings):
    model, size = small_model(tokenizer, **settings), len(tokenizer)
    batch = tokenizer(texts("en")[:12], return_tensors="pt", padding=True)
    targets = tokenizer(texts("en")[12:24], return_tensors="pt", padding=True)["input_ids"]
    with torch.no_grad():
        before = model(**batch, decoder_input_ids=targets).logits
        generated = model.generate(**batch, num_beams=1, max_new_tokens=12)
        added = extend_vocabulary(model, tokenizer, [NEW], new_tokens=40)
        assert added and model.config.vocab_size == len(tokenizer) == size + added
        after = model(**batch, decoder_input_ids=targets).logits
    torch.testing.assert_close(after[..., :size], before, atol=1e-6, rtol=1e-6)
    assert (after[..., size:].amax(-1) <= before.amax(-1) + 1e-5).all()
    assert torch.equal(model.generate(**batch, num_beams=1, max_new_tokens=12), generated)


def test_new_rows_are_the_mean_of_the_old_ones(tokenizer):
    model = small_model(tokenizer, output_bias=True)
    words, bias = model.lm_head.weight.detach().clone(), model.lm_head.bias.detach().clone()
    old_tokens = tokenizer.convert_ids_to_tokens(range(len(words)))
    extend_vocabulary(model, tokenizer, [NEW], new_tokens=40)
    assert model.model.shared.weight is model.lm_head.weight
    first = tokenizer.convert_ids_to_tokens(len(words))  # it merges two old tokens
    old = [
        [one, two]
        for one, left in enumerate(old_tokens)
        for two, right in enumerate(old_tokens)
        if left + right == first
    ]
    means = torch.stack([words[pair].mean(0) for pair in old])
    distances = (means - model.lm_head.weight[len(words)]).abs().amax(-1)
    assert distances.min() < 1e-6
    torch.testing.assert_close(
        model.lm_head.bias[len(words)], bias[old[int(distances.argmin())]].mean(), atol=1e-6, rtol=0
    )


def test_what_cannot_be_extended_is_refused(tokenizer):
    model = small_model(tokenizer, target_vocab_size=50)
    with pytest.raises(ValueError, match="separate vocabularies"):
        extend_vocabulary(model, tokenizer, [NEW])
    with pytest.raises(ValueError, match="separate vocabularies"):
        model.resize_token_embeddings(700)
    with pytest.raises(TypeError, match="cannot learn new tokens"):
        extend_vocabulary(model, object(), [NEW])
    with pytest.raises(ValueError, match="the tokenizer has 600 tokens, but the model has 50"):
        extend_vocabulary(
            VanillaTransformerForConditionalGeneration(
                VanillaTransformerConfig.from_preset("tiny", vocab_size=50)
            ),
            tokenizer,
            [NEW],
        )
