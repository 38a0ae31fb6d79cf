"""Matrix products on a CPU, by the library and in the number format that is fastest on it.

torch multiplies float32 matrices with MKL. MKL uses half of what a current AMD processor can do. oneDNN,
which is also in torch, uses all of it. And oneDNN can store a weight in the order in which its kernel reads
it ("packed"). That saves most of the time where there are few rows, as in decoding.
"""

import functools
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

Product = Callable[[torch.Tensor], torch.Tensor]  # x, (rows, in), to x Wᵀ + b, (rows, out)

FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SMALL = 2**18  # multiplications of a product that is done before oneDNN has begun
ENOUGH = 2**21  # multiplications that pay for an unpacked product of oneDNN


def onednn_product(
    states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """`x Wᵀ + b` by oneDNN, without a gradient; `weight` is `(out, in)`, also packed or transposed."""
    return torch.ops.mkldnn._linear_pointwise(states, weight, bias, "none", [], "")


def seconds(work: Callable[[], Any], tries: int = 5) -> float:
    """The shortest of some runs, after one that does not count."""
    taken = []
    for _ in range(tries + 1):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken[1:])


@functools.cache
def onednn_is_faster() -> bool:
    """Whether oneDNN takes less than 3/4 of the time of torch's own product; measured once, in 10 ms."""
    if not torch.backends.mkldnn.is_available():
        return False
    with torch.no_grad():
        # no random numbers: training would draw others after it than a run that measured earlier
        states, weight = torch.ones(256, 512), torch.ones(512, 512)
        try:
            own = seconds(lambda: onednn_product(states, weight))
        except (AttributeError, RuntimeError):  # a build of torch without this operator
            return False
        return own < 0.75 * seconds(lambda: F.linear(states, weight))


def is_plain(*tensors: torch.Tensor) -> bool:
    """Whether these are float32 tensors in memory, which no transformation of torch is looking at."""
    return (
        all(type(tensor) in (torch.Tensor, nn.Parameter) for tensor in tensors)
        and all(tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in tensors)
        and not torch.compiler.is_compiling()
        and not torch._C._len_torch_dispatch_stack()  # such as a counter of operations
        and not any(torch._C._functorch.is_legacy_batchedtensor(tensor) for tensor in tensors)
        and not torch.is_autocast_enabled("cpu")
        and torch._C._functorch.peek_interpreter_stack() is None  # torch.func
        and torch.autograd.forward_ad._current_level < 0
    )


def product(states: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`x Wᵀ` of matrices, `(rows, in)` and `(out, in)`, without a gradient of its own."""
    enough = states.numel() * weight.shape[0] >= ENOUGH
    if enough and is_plain(states, weight) and onednn_is_faster():
        return onednn_product(states, weight)
    return states @ weight.T


class _Linear(torch.autograd.Function):
    """`x Wᵀ + b` whose three products, one forward and two backward, are oneDNN's."""

    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(states, weight)
        return onednn_product(states, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        states, weight = ctx.saved_tensors
        of_states, of_weight, of_bias = ctx.needs_input_grad
        multiply = (
            (lambda x, w: x @ w.T) if torch.is_grad_enabled() else product
        )  # a gradient of the gradient
        rows = gradient.reshape(-1, gradient.shape[-1])
        return (
            multiply(rows, weight.T).view_as(states) if of_states else None,
            multiply(rows.T, states.reshape(-1, states.shape[-1]).T) if of_weight else None,
            rows.sum(0) if of_bias else None,
        )


class Linear(nn.Linear):
    """`torch.nn.Linear` that multiplies large float32 matrices on a CPU with the faster library."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        if (
            type(states) is torch.Tensor
            and not torch.jit.is_tracing()
            and states.numel() * self.out_features >= ENOUGH
            and states.shape[-1] == self.in_features
            and is_plain(states, self.weight, *([] if self.bias is None else [self.bias]))
            and onednn_is_faster()
        ):
            return _Linear.apply(states, self.weight, self.bias)
        return super().forward(states)


def prepare(weight: torch.Tensor, bias: torch.Tensor | None, precision: str) -> Product:
    """A product with this weight `(out, in)` that is fast for few rows.

    On a CPU it takes and returns float32: other work than products is slow there in other formats.

    Args:
        precision: "fp32", "bf16" or "fp16", of weight and inputs; "int8", with a scale for each output of the
            weight, and one for the inputs.
    """
    if precision == "int8":
        return int8_product(weight, bias)
    dtype = FORMATS[precision]
    weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
    if weight.device.type != "cpu":
        return lambda states: F.linear(states, weight, bias)
    multiply = packed_product(weight, bias)
    return multiply if dtype == torch.float32 else lambda states: multiply(states.to(dtype)).float()


def packed_product(weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
    """A product with a weight that oneDNN has packed; torch's own where that is faster."""
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, 16)
        onednn_product(weight[:1], packed, bias)
    except (AttributeError, RuntimeError):  # this build of torch, or this format, has no such operator
        return lambda states: F.linear(states, weight, bias)
    if weight.numel() > SMALL:
        return lambda states: onednn_product(states, packed, bias)
    rows = SMALL // weight.numel() if weight.dtype == torch.float32 else 0

    def multiply(states: torch.Tensor) -> torch.Tensor:
        if len(states) <= rows:
            return F.linear(states, weight, bias)
        return onednn_product(states, packed, bias)

    return multiply


def int8_product(weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
    """A product of 8-bit integers, by FBGEMM: one scale for each row of the weight, one for all inputs."""
    weight = weight.detach().float()
    scales = weight.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny).double() / 127
    zeros = torch.zeros(len(weight), dtype=torch.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch means to move quantised tensors out of its core
        quantized = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
    packed = torch.ops.quantized.linear_prepack(quantized, None if bias is None else bias.float())
    return lambda states: torch.ops.quantized.linear_dynamic(states, packed)


def fastest_precision(shapes: set[tuple[int, int]], rows: int = 64) -> str:
    """The precision whose products with weights of these shapes `(out, in)` take the least time; measured."""
    taken = dict.fromkeys(("fp32", "bf16", "int8"), 0.0)
    for precision in taken:
        for shape in shapes:
            states = torch.ones(rows, shape[1])
            try:
                multiply = prepare(torch.ones(shape), None, precision)
                taken[precision] += seconds(lambda: multiply(states), tries=3)  # noqa: B023
            except RuntimeError:  # no such kernel for this processor
                taken[precision] = float("inf")
    return min(taken, key=lambda precision: taken[precision])
