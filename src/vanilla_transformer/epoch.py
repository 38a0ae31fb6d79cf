"""The epoch of a data set whose examples change from epoch to epoch."""

import torch


class Epoch:
    """A mixin that gives a data set `epoch`, and `set_epoch`, which the Trainer calls.

    The number lies in shared memory, so DataLoader workers that persist between epochs see it change.
    """

    def __init__(self) -> None:
        super().__init__()
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        self._epoch.fill_(epoch)

    @property
    def epoch(self) -> int:
        return int(self._epoch)
