"""Modules that other libraries wrap or replace: adapters, hooks, parametrizations, offloading."""

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from accelerate.hooks import remove_hook_from_submodules
from tiny_models import SIZES, gradients, padded_batch, random_model
from torch import nn
from torch.nn.utils import parametrize

from vanilla_transformer import (
    VanillaTransformerConfig,
    VanillaTransformerDetectionConfig,
    VanillaTransformerForCausalLM,
    VanillaTransformerForImageClassification,
    VanillaTransformerForMaskedLM,
    VanillaTransformerForObjectDetection,
    VanillaTransformerForSequenceClassification,
    VanillaTransformerVisionConfig,
)
from vanilla_transformer.losses import TrainingLoss, label_smoothed_cross_entropy, r_drop_divergence


class Adapter(nn.Module):
    """A wrapper as PEFT's: the frozen projection and a low-rank one."""

    def __init__(self, base: nn.Linear):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    @property
    def weight(self):
        return self.base.weight

    def forward(self, states):
        return self.base(states) + self.up(self.down(states))


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, weight):
        return weight * self.scale


def adapter(head):
    return Adapter(head)


def parametrized(head):
    parametrize.register_parametrization(head, "weight", Scaled())
    return head


def hooked(head):
    head.learned = nn.Parameter(torch.tensor(0.5))
    head.register_forward_hook(lambda module, _, output: output * module.learned)
    return head


def with_a_hook_before(head):
    head.learned = nn.Parameter(torch.tensor(0.5))
    head.register_forward_pre_hook(lambda module, inputs: (inputs[0] * module.learned,))
    return head


def with_a_bias(head):
    biased = nn.Linear(head.in_features, head.out_features)
    biased.weight = head.weight
    return biased


@pytest.mark.parametrize("wrap", [adapter, parametrized, hooked, with_a_hook_before, with_a_bias])
@pytest.mark.parametrize("r_drop", [0.0, 2.0])
def test_the_training_loss_sees_what_wraps_the_projection(wrap, r_drop):
    model = random_model(dropout=0.0, tie_word_embeddings=False).train()
    model.lm_head = wrap(model.lm_head)
    training_loss = TrainingLoss(smoothing=0.1, r_drop=r_drop)
    batch = training_loss.doubled(padded_batch())

    model.zero_grad()
    logits = model(**batch).logits
    loss = label_smoothed_cross_entropy(logits, batch["labels"], 0.1)
    if r_drop:
        loss = loss + r_drop * r_drop_divergence(logits, batch["labels"])
    loss.backward()
    expected = {name: part.grad.clone() for name, part in model.named_parameters() if part.grad is not None}
    model.zero_grad()
    fused = model(**batch, training_loss=training_loss).loss
    fused.backward()
    torch.testing.assert_close(fused, loss)
    got = {name: part.grad for name, part in model.named_parameters() if part.grad is not None}
    assert got.keys() == expected.keys() and any("lm_head" in name for name in got)
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


def test_a_plain_projection_makes_no_logits_of_the_whole_batch(monkeypatch):
    model = random_model(dropout=0.0).train()
    monkeypatch.setattr(nn.Linear, "forward", guarded(nn.Linear.forward, model.lm_head))
    gradients(model, **padded_batch(), training_loss=TrainingLoss())


def guarded(forward, forbidden):
    def guard(module, states):
        assert module is not forbidden
        return forward(module, states)

    return guard


def models():
    torch.manual_seed(0)
    text = VanillaTransformerConfig(**SIZES, pair_rows=50)
    ids = {"input_ids": torch.tensor([[5, 6, 7, 2], [8, 2, 1, 1]])}
    ids["attention_mask"] = (ids["input_ids"] != 1).long()
    small = dict(hidden_size=16, intermediate_size=32, num_attention_heads=2, encoder_layers=1, patch_size=4)
    pixels = {"pixel_values": torch.rand(2, 3, 16, 16)}
    yield random_model(), {**ids, "labels": ids["input_ids"]}
    yield random_model(norm_position="pre", tie_word_embeddings=False), {**ids, "labels": ids["input_ids"]}
    yield random_model(), {**ids, "labels": ids["input_ids"], "training_loss": TrainingLoss(0.1)}
    for head in (
        VanillaTransformerForCausalLM,
        VanillaTransformerForMaskedLM,
        VanillaTransformerForSequenceClassification,
    ):
        yield head(text), ids
    for stem in ("patches", "convolutions"):
        config = VanillaTransformerVisionConfig(image_size=16, stem=stem, **small)
        yield VanillaTransformerForImageClassification(config), pixels
    config = VanillaTransformerDetectionConfig(decoder_layers=1, num_queries=5, **small)
    yield VanillaTransformerForObjectDetection(config), pixels


@pytest.mark.parametrize("to", ["cpu", "disk"])
def test_offloaded_weights_give_the_same_output(to, tmp_path):
    for number, (model, inputs) in enumerate(models()):
        model.eval()
        with torch.no_grad():
            expected = model(**inputs)[0]
        if to == "cpu":
            cpu_offload(model, execution_device="cpu")
        else:
            disk_offload(model, tmp_path / str(number), execution_device="cpu")
        assert all(weight.is_meta for weight in model.parameters())
        with torch.no_grad():
            got = model(**inputs)[0]
        torch.testing.assert_close(got, expected, msg=type(model).__name__)
        remove_hook_from_submodules(model)


def test_an_offloaded_model_generates_the_same(tmp_path):
    model = random_model().eval()
    ids = torch.tensor([[5, 6, 7, 2], [8, 9, 2, 1]])
    expected = model.generate(ids, attention_mask=(ids != 1).long(), max_new_tokens=6)
    cpu_offload(model, execution_device="cpu")
    assert model.generate(ids, attention_mask=(ids != 1).long(), max_new_tokens=6).equal(expected)
