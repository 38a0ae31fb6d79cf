"""The base class of the metrics: an `evaluate.Metric` that needs no network and writes no files."""

from collections.abc import Collection
from inspect import signature
from typing import Any

import evaluate


class OfflineMetric(evaluate.Metric):
    """An `evaluate.Metric` that needs no network and writes no files.

    It keeps its inputs in memory, so several processes can score at the same time. With `num_process` > 1 or
    `keep_in_memory=False`, `evaluate` writes them to files in `cache_dir`.
    """

    name: str

    def __init__(self, keep_in_memory: bool | None = None, num_process: int = 1, **kwargs: Any):
        unknown = kwargs.keys() - signature(evaluate.Metric.__init__).parameters.keys()
        if unknown:
            raise TypeError(f"{self.name} has no option {', '.join(sorted(unknown))}")
        keep_in_memory = num_process == 1 if keep_in_memory is None else keep_in_memory
        super().__init__(keep_in_memory=keep_in_memory, num_process=num_process, **kwargs)

    def _build_data_dir(self) -> str:
        return "" if self.keep_in_memory else super()._build_data_dir()

    def _infer_feature_from_batch(self, batch: dict[str, Any]) -> Any:
        if not all(map(len, batch.values())):
            raise ValueError(f"{self.name} has nothing to score: the first batch is empty")
        return super()._infer_feature_from_batch(batch)

    def _finalize(self) -> None:
        if self.writer is None and self.num_process == 1:
            raise ValueError(f"{self.name} has nothing to score: add predictions first")
        super()._finalize()


def checked_options(metric: str, options: dict[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Return the options of a call of `compute`.

    Raises:
        TypeError: the metric does not know one of them.
    """
    if unknown := options.keys() - set(known):
        raise TypeError(f"{metric} has no option {', '.join(sorted(unknown))}; use {', '.join(known)}")
    return options
