"""Fields of the configuration for imported models: two vocabularies, a bias of the logits, last norms."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from tiny_models import SIZES, VOCABULARY, padded_batch, random_model
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from vanilla_transformer import TrainingLoss, VanillaTransformerConfig
from vanilla_transformer.losses import label_smoothed_cross_entropy, projection_cross_entropy

SEPARATE = {"target_vocab_size": 57}
variants = pytest.mark.parametrize(
    "settings",
    [
        SEPARATE,
        SEPARATE | {"tie_word_embeddings": False},
        {"output_bias": True},
        SEPARATE | {"output_bias": True, "final_norm": True},
        {"norm_position": "pre", "final_norm": False},
    ],
    ids=lambda settings: ",".join(settings),
)


def batch_for(model):
    batch = padded_batch()
    labels = batch["labels"]
    batch["labels"] = labels.where(labels < 0, labels % model.config.output_vocab_size)
    return batch


@variants
def test_a_saved_model_is_the_same(tmp_path, settings):
    model = random_model(**settings)
    batch = batch_for(model)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert {name: getattr(loaded.config, name) for name in settings} == settings
    assert torch.equal(loaded(**batch).logits, model(**batch).logits)
    assert loaded(**batch).logits.shape[-1] == settings.get("target_vocab_size", VOCABULARY)
    ties = settings.get("tie_word_embeddings", True)
    assert (loaded.lm_head.weight is loaded.model.decoder.embed_tokens.weight) == ties
    shares = ties and "target_vocab_size" not in settings
    assert (loaded.model.encoder.embed_tokens.weight is loaded.model.decoder.embed_tokens.weight) == shares
    assert AutoModel.from_pretrained(tmp_path).encoder.embed_tokens.num_embeddings == VOCABULARY


@variants
def test_the_training_loss_is_that_of_the_logits(settings):
    model = random_model(**settings)
    batch = batch_for(model)
    expected = label_smoothed_cross_entropy(model(**batch).logits, batch["labels"], 0.1)
    loss = model(**batch, training_loss=TrainingLoss(smoothing=0.1)).loss
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("r_drop", [0.0, 2.0])
def test_the_fused_loss_has_the_gradients_of_a_bias(r_drop):
    torch.manual_seed(0)
    project = torch.nn.Linear(16, 33)
    labels = torch.randint(0, 33, (12,)).repeat(2) if r_drop else torch.randint(0, 33, (24,))
    labels[3::12] = -100
    results = []
    for fused in (True, False):
        torch.manual_seed(1)
        states = torch.randn(24, 16, requires_grad=True)
        # A hook makes the projection one that is called.
        handle = None if fused else project.register_forward_hook(lambda *inputs: None)
        project.zero_grad()
        loss = projection_cross_entropy(states, project, labels, TrainingLoss(0.1, r_drop))
        loss.backward()
        results.append([loss.detach(), states.grad, project.weight.grad.clone(), project.bias.grad.clone()])
        if handle:
            handle.remove()
    for one, other in zip(*results):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_parts_of_a_model_with_two_vocabularies_load_alone(tmp_path):
    model = random_model(**SEPARATE)
    model.save_pretrained(tmp_path)
    decoder, loading = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not loading["missing_keys"] and decoder.config.vocab_size == 57
    assert torch.equal(decoder.lm_head.weight, model.lm_head.weight)
    encoder, loading = AutoModelForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not loading["missing_keys"] and encoder.lm_head.out_features == VOCABULARY
    assert encoder.lm_head.weight is encoder.model.encoder.embed_tokens.weight
    source = batch_for(model)["input_ids"]
    states = model.model.encoder(source).last_hidden_state
    assert torch.equal(encoder(source).logits, F.linear(states, model.model.encoder.embed_tokens.weight))


def test_two_vocabularies_generate_and_need_a_target():
    model = random_model(**SEPARATE)
    batch = batch_for(model)
    del batch["labels"]
    for search in ({"num_beams": 1}, {"num_beams": 4}, {"num_beams": 4, "length_penalty_type": "gnmt"}):
        assert model.generate(**batch, max_new_tokens=6, **search).max() < 57
    with pytest.raises(ValueError, match="needs decoder_input_ids"):
        model.model(batch["input_ids"])


def test_the_number_of_weights_is_estimated():
    for settings in ({}, SEPARATE, SEPARATE | {"tie_word_embeddings": False}, {"tie_word_embeddings": False}):
        counts = VanillaTransformerConfig(**SIZES | settings).weight_counts()
        model = random_model(**settings)
        matrices = {
            parameter.data_ptr(): parameter.numel()
            for name, parameter in model.named_parameters()
            if "embed" in name or "shared" in name or "lm_head" in name
        }
        assert counts[f"vocab_size={VOCABULARY}"] == sum(matrices.values())


def test_a_vocabulary_of_no_words_is_refused():
    with pytest.raises(StrictDataclassClassValidationError, match="target_vocab_size=0"):
        VanillaTransformerConfig(target_vocab_size=0)
