"""The base class of the metrics: an `evaluate.Metric` that neither loads nor leaves a file."""

from inspect import signature

import evaluate


class OfflineMetric(evaluate.Metric):
    """An `evaluate.Metric` that neither loads nor leaves a file.

    Inputs are held in memory, so that any number of processes may score at once. With `num_process` > 1, or
    `keep_in_memory=False`, they go through files in `cache_dir`, as `evaluate` does it.
    """

    def __init__(self, keep_in_memory=None, num_process=1, **kwargs):
        unknown = kwargs.keys() - signature(evaluate.Metric.__init__).parameters.keys()
        if unknown:
            raise TypeError(f"{self.name} has no option {sorted(unknown)}")
        keep_in_memory = num_process == 1 if keep_in_memory is None else keep_in_memory
        super().__init__(keep_in_memory=keep_in_memory, num_process=num_process, **kwargs)

    def _build_data_dir(self):
        return "" if self.keep_in_memory else super()._build_data_dir()

    def _infer_feature_from_batch(self, batch):
        if not all(map(len, batch.values())):
            raise ValueError(f"{self.name} has nothing to score: an empty batch came first")
        return super()._infer_feature_from_batch(batch)

    def _finalize(self):
        if self.writer is None and self.num_process == 1:
            raise ValueError(f"{self.name} has nothing to score: no predictions were given")
        super()._finalize()
