"""Whether to compute in bfloat16."""

import time

import torch
from transformers.utils import logging

from ..products import Linear

logger = logging.get_logger(__name__)

BF16_SPEED = 1.1  # bf16: auto takes bfloat16 if its products are this many times as fast


def choose_bf16(wanted: str | bool, use_cpu: bool) -> bool:
    """Return whether to compute in bfloat16.

    Raises:
        ValueError: `wanted` is none of true, false and auto.
    """
    word = str(wanted).lower()
    if word in ("true", "yes", "1"):
        return True
    if word in ("false", "no", "0"):
        return False
    if word != "auto":
        raise ValueError(f"bf16={wanted} is none of true, false, auto")
    device = (
        torch.device("cpu") if use_cpu else torch.accelerator.current_accelerator() or torch.device("cpu")
    )
    speed = speed_of_bf16(device)
    chosen = speed >= BF16_SPEED
    logger.warning(
        f"bf16=auto: products in bfloat16 are {speed:.2f} times as fast as in float32 on this {device.type}, "
        f"so training computes in {'bfloat16' if chosen else 'float32'}"
    )
    return chosen


def speed_of_bf16(device: torch.device, size: int = 256, rounds: int = 5) -> float:
    """Return how many times as fast as in float32 a linear layer is in bfloat16, forward and backward."""

    def seconds(dtype: torch.dtype) -> float:
        states = torch.ones(2 * size, size, device=device, dtype=dtype)
        linear = Linear(size, 4 * size, device=device, dtype=dtype)  # as the models multiply
        times = []
        for _ in range(rounds + 1):
            start = time.perf_counter()
            linear(states).sum().backward()
            if device.type != "cpu":
                torch.accelerator.synchronize()
            times.append(time.perf_counter() - start)
        return min(times[1:])  # the first one warms up

    return seconds(torch.float32) / seconds(torch.bfloat16)
