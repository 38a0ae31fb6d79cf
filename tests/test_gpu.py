"""Tests that need a GPU; they are skipped without one."""

import copy

import pytest
import torch
from tiny_models import padded_batch, random_model
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.varlen import varlen_attn

from vanilla_transformer import VanillaTransformerConfig, VanillaTransformerForConditionalGeneration
from vanilla_transformer.generation import paper_generation_config
from vanilla_transformer.layers import Dropout
from vanilla_transformer.losses import TrainingLoss, label_smoothed_cross_entropy, linear_cross_entropy

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    return padded_batch()


def on_gpu(batch):
    return {name: values.cuda() for name, values in batch.items()}


def wide_model(dtype=torch.bfloat16):
    """A model with heads wide enough for every attention kernel."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 500, "hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 2}
    config = VanillaTransformerConfig(**sizes, encoder_layers=2, decoder_layers=2)
    return VanillaTransformerForConditionalGeneration(config).to("cuda", dtype).eval()


def whole_batch(length=48):
    """A batch without padding, as flash attention needs it."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 500, (2, 4, length), generator=generator).cuda()
    return {"input_ids": ids[0], "labels": ids[1]}


@torch.no_grad()
def test_logits_and_translations_equal_those_of_the_cpu(batch):
    model = random_model().eval()
    source = {name: batch[name] for name in ("input_ids", "attention_mask")}
    model.generation_config = paper_generation_config(model.config)
    logits, ids = model(**batch).logits, model.generate(**source)
    model.cuda()
    torch.testing.assert_close(model(**on_gpu(batch)).logits.cpu(), logits, rtol=1e-4, atol=1e-5)
    assert torch.equal(model.generate(**on_gpu(source)).cpu(), ids)
    greedy = {"num_beams": 1, "length_penalty_type": None, "max_new_tokens": 12}
    dynamic = model.generate(**on_gpu(source), **greedy)
    static = model.generate(**on_gpu(source), **greedy, cache_implementation="static")
    assert torch.equal(static, dynamic)


@pytest.mark.parametrize(
    "backend", [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION]
)
def test_every_sdpa_kernel_gives_the_same_numbers(backend):
    model, exact = wide_model(), wide_model(torch.float32)
    exact.load_state_dict(model.state_dict())
    with sdpa_kernel(backend):
        outputs = model(**whole_batch())
        outputs.loss.backward()
    expected = exact(**whole_batch())
    expected.loss.backward()
    torch.testing.assert_close(outputs.logits.float(), expected.logits, rtol=0.1, atol=0.1)
    gradients = (one.model.shared.weight.grad.float() for one in (model, exact))
    assert torch.cosine_similarity(*(gradient.flatten() for gradient in gradients), dim=0) > 0.99


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_attention_that_stays_packed_is_near_exact_attention(monkeypatch, batch, dtype):
    calls = []

    def counted(*args, **kwargs):
        calls.append(1)
        return varlen_attn(*args, **kwargs)

    monkeypatch.setattr("vanilla_transformer.layers.varlen_attn", counted)
    packed, exact = wide_model(dtype), wide_model(torch.float32)
    exact.load_state_dict(packed.state_dict())
    losses = []
    for model in (packed, exact):
        loss = model(**on_gpu(batch), training_loss=TrainingLoss()).loss
        loss.backward()
        losses.append(loss.float())
    assert len(calls) == 6  # two layers in each stack
    torch.testing.assert_close(*losses, rtol=0.02, atol=0.02)
    gradients = (one.model.shared.weight.grad.float() for one in (packed, exact))
    assert torch.cosine_similarity(*(gradient.flatten() for gradient in gradients), dim=0) > 0.99


def test_compiled_layers_equal_plain_ones_at_every_shape(batch):
    from vanilla_transformer.training.compilation import compile_layers

    plain = wide_model(torch.float32).train()
    for module in plain.modules():
        if isinstance(module, Dropout):
            module.p = 0.0
    compiled = copy.deepcopy(plain)
    compile_layers(compiled, backend=None, mode=None)
    for rows in (3, 2):
        inputs = on_gpu({name: values[:rows] for name, values in batch.items()})
        for one in (plain, compiled):
            one.zero_grad()
            with torch.autocast("cuda", torch.bfloat16):
                loss = one(**inputs, training_loss=TrainingLoss(0.1)).loss
            loss.backward()
        gradients = [one.model.shared.weight.grad.flatten() for one in (plain, compiled)]
        assert torch.cosine_similarity(*gradients, dim=0) > 0.99


@torch.no_grad()
def test_flex_attention_equals_eager(batch):
    model = wide_model(torch.float32)
    model.set_attn_implementation("eager")
    eager = model(**on_gpu(batch)).logits
    model.set_attn_implementation("flex_attention")
    torch.testing.assert_close(model(**on_gpu(batch)).logits, eager, rtol=1e-3, atol=1e-3)


def test_compiled_equals_eager(batch):
    model = wide_model(torch.float32)
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True)
    for one in (model, compiled):
        one(**on_gpu(batch)).loss.backward()
    gradients = [one.get_parameter("model.shared.weight").grad for one in (model, compiled._orig_mod)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("tokens", [100, 20_000])  # part of a chunk, and several chunks
def test_linear_cross_entropy_equals_the_loss_of_its_logits(tokens):
    generator = torch.Generator("cuda").manual_seed(0)
    states = torch.randn(tokens, 64, generator=generator, device="cuda", requires_grad=True)
    weight = torch.randn(3000, 64, generator=generator, device="cuda", requires_grad=True)
    labels = torch.randint(0, 3000, (tokens,), generator=generator, device="cuda")
    labels[::7] = -100
    plain = label_smoothed_cross_entropy(states @ weight.T, labels, 0.1)
    expected = torch.autograd.grad(plain, (states, weight))
    fused = linear_cross_entropy(states, weight, labels, TrainingLoss(smoothing=0.1))
    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.autograd.grad(fused, (states, weight)), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("precision", [{"bf16": True}, {"fp16": True}, {"bf16": True, "r_drop": 1.0}])
def test_half_precision_learns(tmp_path, precision):
    pytest.importorskip("datasets", reason="the trainer needs it")  # the other tests run without it
    from tiny_training import build, pairs

    from vanilla_transformer.training import (
        Seq2SeqCollator,
        VanillaTransformerTrainer,
        VanillaTransformerTrainingArguments,
    )

    args = VanillaTransformerTrainingArguments(
        str(tmp_path),
        max_steps=200,
        learning_rate=3e-3,
        lr_scheduler_type="constant",
        max_target_tokens=600,
        save_strategy="no",
        disable_tqdm=True,
        **precision,
    )
    trainer = VanillaTransformerTrainer(build(), args, Seq2SeqCollator(1), pairs(200), pairs(200))
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before - 0.5
