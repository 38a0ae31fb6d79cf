"""The learning rate of section 5.3, "Noam", which training uses and pictures show."""


def noam_rate(update: int, d_model: int, warmup_steps: float, factor: float = 1.0) -> float:
    """Return the learning rate of an update, counted from 1: equation 3 of the paper times `factor`.

    It grows linearly for `warmup_steps` updates, then falls with the square root of `update`.

    Example:
        >>> round(noam_rate(4000, d_model=512, warmup_steps=4000), 6)  # the highest rate of the base model
        0.000699
    """
    return factor * d_model**-0.5 * min(update**-0.5, update * warmup_steps**-1.5)
