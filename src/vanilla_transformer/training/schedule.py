"""The learning rate of section 5.3, "Noam"."""

from functools import partial

from torch.optim.lr_scheduler import LambdaLR


def noam_rate(update, d_model, warmup_steps, factor=1.0):
    """Learning rate of update number `update`, counted from 1: equation 3 of the paper times `factor`.

    It grows linearly for `warmup_steps` updates and falls with the square root of `update` from then on.
    """
    return factor * d_model**-0.5 * min(update**-0.5, update * warmup_steps**-1.5)


def _rate_of_next_update(updates_done, **settings):
    return noam_rate(updates_done + 1, **settings)


def noam_lambda(d_model, warmup_steps, factor=1.0):
    """The rate as `LambdaLR` asks for it: a function of the updates done so far. It can be pickled."""
    for name, value in {"d_model": d_model, "warmup_steps": warmup_steps, "noam_factor": factor}.items():
        if not value > 0:
            raise ValueError(f"the Noam schedule needs {name} > 0, got {name}={value}")
    return partial(_rate_of_next_update, d_model=d_model, warmup_steps=warmup_steps, factor=factor)


def get_noam_schedule(optimizer, d_model, warmup_steps, factor=1.0, last_epoch=-1):
    """Noam over `optimizer`, whose own learning rate multiplies the schedule: the paper's is 1."""
    return LambdaLR(optimizer, noam_lambda(d_model, warmup_steps, factor), last_epoch)
