"""The losses, and the training loss of the three language-model heads."""

import pytest
import torch
from tiny_models import (
    VOCABULARY,
    assert_same_gradients,
    gradients,
    padded_batch,
    pair,
    random_model,
    variants,
)

from vanilla_transformer import (
    VanillaTransformerConfig,
    VanillaTransformerForCausalLM,
    VanillaTransformerForConditionalGeneration,
    VanillaTransformerForMaskedLM,
    VanillaTransformerForSequenceClassification,
    VanillaTransformerForTokenClassification,
)
from vanilla_transformer.losses import (
    TrainingLoss,
    label_smoothed_cross_entropy,
    linear_cross_entropy,
    r_drop_divergence,
)


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    return padded_batch()


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_label_smoothed_cross_entropy_equals_its_formula(label_smoothing):
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
def test_linear_cross_entropy_equals_the_loss_of_its_logits(smoothing, r_drop, num_items):
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


@variants
def test_the_training_loss_has_the_gradients_of_the_padded_loss(batch, settings):
    model = random_model(dropout=0.0, **settings).train()
    padded = gradients(model, **batch)
    assert_same_gradients(padded, gradients(model, **batch, training_loss=TrainingLoss()))
    outputs = model(**batch, training_loss=TrainingLoss(smoothing=0.1))
    assert outputs.logits is None
    expected = label_smoothed_cross_entropy(model(**batch).logits, batch["labels"], 0.1)
    torch.testing.assert_close(outputs.loss, expected)


@variants
def test_the_causal_models_training_loss_has_the_gradients_of_the_padded_loss(settings):
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
def test_the_masked_models_training_loss_scores_masked_positions_only(batch, with_mask):
    torch.manual_seed(0)
    config = VanillaTransformerConfig(**random_model().config.to_dict() | {"dropout": 0.0})
    model = VanillaTransformerForMaskedLM(config).train()
    scored = batch["attention_mask"].bool() & (torch.rand(batch["input_ids"].shape) < 0.4)
    masked = {"input_ids": batch["input_ids"], "labels": batch["input_ids"].masked_fill(~scored, -100)}
    if with_mask:
        masked["attention_mask"] = batch["attention_mask"]
    projected = []
    model.lm_head.register_forward_hook(lambda _, inputs, output: projected.append(len(inputs[0])))
    one = gradients(model, **masked, training_loss=TrainingLoss())
    assert projected == [int(scored.sum())]  # no logits of other positions
    assert_same_gradients(one, gradients(model, **masked))


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
def test_a_training_loss_without_labels_raises(head):
    with pytest.raises(ValueError, match="training_loss needs labels"):
        head(random_model().config)(input_ids=torch.full((1, 3), 5), training_loss=TrainingLoss())


HEADS = {
    "single label": (VanillaTransformerForSequenceClassification, torch.tensor([0, 2, 1, 0])),
    "several labels": (VanillaTransformerForSequenceClassification, torch.tensor([[1.0, 0, 1]] * 4)),
    "regression": (VanillaTransformerForSequenceClassification, torch.tensor([[0.5, -1.0, 2.0]] * 4)),
    "tokens": (
        VanillaTransformerForTokenClassification,
        torch.tensor([[0, 1, 2, 1]] * 3 + [[2, 0, -100, -100]]),
    ),
}


@pytest.mark.parametrize("kind", HEADS)
def test_parts_of_an_update_have_the_gradient_of_the_whole(kind):
    """As the plain Trainer accumulates: it passes `num_items_in_batch`, and does not divide the loss."""
    head, labels = HEADS[kind]
    problem = {"problem_type": "regression"} if kind == "regression" else {}
    torch.manual_seed(0)
    config = VanillaTransformerConfig.from_preset("tiny", vocab_size=50, num_labels=3, dropout=0.0, **problem)
    model, ids = head(config).eval(), torch.randint(3, 50, (4, 4))
    whole = gradients(model, input_ids=ids, labels=labels)
    items = (labels != -100).sum()
    model.zero_grad()
    for part in (slice(0, 3), slice(3, 4)):
        model(input_ids=ids[part], labels=labels[part], num_items_in_batch=items).loss.backward()
    for name, weight in model.named_parameters():
        if weight.grad is not None:
            torch.testing.assert_close(weight.grad, whole[1][name], msg=name)
