"""The process of one peer: reads a request from each line of its input, and answers with a line of JSON.

{"do": "write", "size": …, "task": …, "folder": …}   saves the weights of all peers
{"do": "peak", "device": …, "threads": …}            measures matrix products
{"do": "build", "peer": …, "work": …, "folder": …}   loads a model; its outputs, for the check
{"do": "step", "repeats": …}                         one step: its times, and the memory so far
"""

import gc
import json
import os
import sys
import time
from pathlib import Path

from .machine import Watch, peak_memory
from .peers import NotAvailable, create
from .work import Size, Work

SHAPES = ((1024, 512, 512), (1024, 512, 2048), (1024, 2048, 512), (512, 512, 37_000), (16, 512, 37_000))
GPU_SHAPES = ((8192, 8192, 8192), (25_000, 512, 2048), (25_000, 2048, 512), (8192, 512, 37_000))


class Worker:
    def __init__(self):
        self.peer = None

    def write(self, size: dict, task: str, folder: str) -> dict:
        from .weights import write

        write(Size(**size), task, Path(folder))
        return {}

    def peak(self, device: str, threads: int, seconds: float) -> dict:
        """Return GFLOP/s of products (rows, inner) x (inner, columns), the best of many of each shape.

        On a CPU torch has two libraries for float32, MKL and oneDNN; the faster one counts.
        """
        import torch

        from vanilla_transformer.products import onednn_is_faster, onednn_product

        torch.set_num_threads(threads)
        found: dict[str, dict[str, float]] = {}
        for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            for rows, inner, columns in GPU_SHAPES if device == "cuda" else SHAPES:
                is_onednn = device == "cpu" and dtype == torch.float32 and onednn_is_faster()
                multiply = onednn_product if is_onednn else torch.nn.functional.linear
                left = torch.randn(rows, inner, device=device).to(dtype)
                right = torch.randn(columns, inner, device=device).to(
                    dtype
                )  # as the weight of a linear layer
                taken, end = [], time.perf_counter() + seconds
                while time.perf_counter() < end or len(taken) < 3:
                    began = time.perf_counter()
                    multiply(left, right)
                    if device == "cuda":
                        torch.cuda.synchronize()
                    taken.append(time.perf_counter() - began)
                rate = 2e-9 * rows * inner * columns / min(taken)
                found.setdefault(name, {})[f"{rows}x{inner} -> {columns}"] = rate
        return {"peak": found}

    def build(self, peer: str, work: dict, folder: str) -> dict:
        self.peer = None
        gc.collect()
        self.work = Work.from_dict(work)
        try:
            self.peer = create(peer, self.work, Path(folder))
        except NotAvailable as reason:
            return {"skipped": str(reason)}
        return {"outputs": self.peer.outputs()}

    def step(self, repeats: int) -> dict:
        with Watch(may_wait=self.work.device != "cpu") as watch:
            for _ in range(repeats):
                self.peer.step()
        measured = {"repeats": repeats, "memory": peak_memory(), **watch.times}
        if (device_memory := getattr(self.peer, "peak_device_memory", None)) is not None:
            measured["device_memory"] = device_memory()
        return measured


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not stand between the answers
    worker = Worker()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(worker, request.pop("do"))(**request)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
            print(f"{request}: {error!r}", file=sys.stderr)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
