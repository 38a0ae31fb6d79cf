"""Products by oneDNN equal torch's own, forward and backward, and stay out of the way elsewhere."""

import pytest
import torch
from tiny_models import assert_same_gradients, gradients, padded_batch, random_model
from torch import nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from vanilla_transformer import products
from vanilla_transformer.losses import TrainingLoss
from vanilla_transformer.products import Linear, prepare, product


@pytest.fixture
def onednn(monkeypatch):
    """Every product is oneDNN's, also small ones and those of a machine on which it is not faster."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this build of torch has no oneDNN")
    monkeypatch.setattr(products, "ENOUGH", 0)
    monkeypatch.setattr(products, "onednn_is_faster", lambda: True)
    calls, multiply = [], products.onednn_product

    def count(*args):
        calls.append(args)
        return multiply(*args)

    monkeypatch.setattr(products, "onednn_product", count)
    return calls


def linear_and_states(bias=True):
    torch.manual_seed(0)
    return Linear(24, 40, bias=bias), torch.randn(3, 5, 24, requires_grad=True)


@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_equal_those_of_torch(onednn, bias):
    linear, states = linear_and_states(bias)
    expected = F.linear(states, linear.weight, linear.bias)
    output = linear(states)
    assert onednn
    torch.testing.assert_close(output, expected)
    toward, inputs = torch.randn_like(output), (states, *linear.parameters())
    taken = len(onednn)
    of_ours = torch.autograd.grad(output, inputs, toward)
    assert len(onednn) == taken + 2  # of the states and of the weight
    for ours, theirs in zip(of_ours, torch.autograd.grad(expected, inputs, toward)):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_only_the_gradients_that_are_needed_are_computed(onednn):
    linear, states = linear_and_states()
    linear.requires_grad_(False)
    linear(states).sum().backward()
    assert len(onednn) == 2 and linear.weight.grad is None and states.grad is not None


def test_gradients_of_gradients(onednn):
    linear, states = linear_and_states()
    torch.autograd.gradgradcheck(
        lambda x, w: products._Linear.apply(x.float(), w.float(), None).double(),
        (
            states.detach().double()[0, :2, :3].requires_grad_(),
            linear.weight.detach().double()[:4, :3].requires_grad_(),
        ),
        eps=1e-2,
        atol=1e-2,
    )


def test_other_formats_and_transformations_use_torch(onednn):
    linear, states = linear_and_states()
    reference = nn.Linear(24, 40)
    reference.load_state_dict(linear.state_dict())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(linear(states), reference(states))
    vectors = states.detach()[0]
    mapped = torch.func.vmap(linear)(vectors)
    torch.testing.assert_close(mapped, reference(vectors))
    jacobian = torch.func.jacfwd(linear)(vectors[0])
    torch.testing.assert_close(jacobian, linear.weight)
    with forward_ad.dual_level():
        tangent = torch.randn_like(vectors)
        output = forward_ad.unpack_dual(linear(forward_ad.make_dual(vectors, tangent)))
        torch.testing.assert_close(output.tangent, tangent @ linear.weight.T)
    assert linear.double()(states.double()).dtype == torch.float64
    assert linear.to("meta")(states.to("meta")).device.type == "meta"
    assert not onednn


def test_batched_gradients_tracing_and_counting_use_torch(onednn):
    linear, states = linear_and_states()
    toward = torch.randn(2, 3, 5, 40)
    output = linear(states)
    both = torch.autograd.grad(output, states, toward, is_grads_batched=True)[0]
    torch.testing.assert_close(both, toward @ linear.weight, rtol=1e-5, atol=1e-5)
    assert torch.jit.trace(linear, states)(states).shape == output.shape
    with FlopCounterMode(display=False) as counter:
        linear(states)
    assert counter.get_total_flops() == 2 * 15 * 24 * 40
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        linear(torch.randn(5, 23))


def test_compiled_models_use_torch(onednn):
    linear, states = linear_and_states()
    expected = F.linear(states, linear.weight, linear.bias)
    torch.testing.assert_close(torch.compile(linear, backend="eager", fullgraph=True)(states), expected)
    assert not onednn


def test_the_training_loss_of_a_model_does_not_change(monkeypatch, request):
    model, batch = random_model(dropout=0.0).train(), padded_batch()
    expected = gradients(model, **batch, training_loss=TrainingLoss(0.1))
    calls = request.getfixturevalue("onednn")
    assert_same_gradients(gradients(model, **batch, training_loss=TrainingLoss(0.1)), expected)
    assert calls


def test_product_of_transposed_matrices(onednn):
    one, other = torch.randn(7, 30).T, torch.randn(7, 12).T
    torch.testing.assert_close(product(one, other), one @ other.T, rtol=1e-5, atol=1e-5)
    assert onednn


@pytest.mark.parametrize("rows", [1, 3, 64])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-6), ("bf16", 1e-2), ("int8", 2e-2)])
@pytest.mark.parametrize("shape", [(8, 16), (600, 500)])
def test_prepared_products(rows, precision, tolerance, shape):
    torch.manual_seed(0)
    weight, bias, states = torch.randn(shape), torch.randn(shape[0]), torch.randn(rows, shape[1])
    expected = F.linear(states, weight, bias)
    output = prepare(weight, bias, precision)(states)
    assert (output - expected).norm() < tolerance * expected.norm()
    without_bias = prepare(weight, None, precision)(
        states.bfloat16() if precision == "bf16" else states
    ).float()
    assert (without_bias - (expected - bias)).norm() < tolerance * expected.norm()


def test_a_weight_of_zeros_in_int8():
    assert torch.equal(prepare(torch.zeros(4, 8), None, "int8")(torch.randn(2, 8)), torch.zeros(2, 4))


def test_int8_has_a_scale_for_each_output():
    weight, states = torch.randn(6, 64) * 10.0 ** torch.arange(-3, 3)[:, None], torch.randn(50, 64)
    expected = F.linear(states, weight)
    error = (prepare(weight, None, "int8")(states) - expected).norm(dim=0) / expected.norm(dim=0)
    assert (error < 0.05).all()


def test_the_fastest_precision_is_one_that_works():
    precision = products.fastest_precision({(32, 16), (64, 16)}, rows=4)
    prepare(torch.randn(32, 16), None, precision)


def test_measuring_draws_no_random_numbers():
    """Otherwise dropout after the first product would depend on whether this process has measured before."""
    before = torch.get_rng_state()
    products.onednn_is_faster.__wrapped__()
    products.fastest_precision({(24, 40)}, rows=4)
    assert torch.equal(torch.get_rng_state(), before)
