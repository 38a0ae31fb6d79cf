"""The learning rate of section 5.3, "Noam"."""

from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ..noam import noam_rate


def _rate_of_next_update(updates_done: int, d_model: int, warmup_steps: float, factor: float) -> float:
    return noam_rate(updates_done + 1, d_model, warmup_steps, factor)


def get_noam_schedule(
    optimizer: Optimizer, d_model: int, warmup_steps: float, factor: float = 1.0, last_epoch: int = -1
) -> LambdaLR:
    """Return the schedule for an optimizer. It sets the rate itself, whatever rate the optimizer brings.

    If groups of parameters have different rates, the schedule is the highest one, and keeps their ratios.

    Raises:
        ValueError: a setting is not positive.

    Example:
        >>> optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.98), eps=1e-9)
        >>> schedule = get_noam_schedule(optimizer, d_model=512, warmup_steps=4000)
        >>> optimizer.step()
        >>> schedule.step()  # after each update
    """
    for name, value in {"d_model": d_model, "warmup_steps": warmup_steps, "factor": factor}.items():
        if not value > 0:
            raise ValueError(f"the Noam schedule needs {name} > 0, but {name}={value}")
    highest = max(float(group["lr"]) for group in optimizer.param_groups)
    for group in optimizer.param_groups:
        ratio = float(group["lr"]) / highest if highest else 1.0
        group["lr"] = ratio
        if last_epoch == -1 or "initial_lr" in group:
            group["initial_lr"] = ratio
    # Not a lambda, which cannot be pickled.
    rate = partial(_rate_of_next_update, d_model=d_model, warmup_steps=warmup_steps, factor=factor)
    return LambdaLR(optimizer, rate, last_epoch)


__all__ = ["get_noam_schedule", "noam_rate"]
