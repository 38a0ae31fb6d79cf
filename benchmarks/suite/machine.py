"""What the machine is, what else it does during a step, and how much memory a process has used."""

import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("torch", "transformers", "ctranslate2", "numpy")
OTHERS_ALLOWED = 0.05  # of the time of all CPUs that a step may use
LEAST_BUSY = 0.9  # of one core: a step that computes less was waiting for something
USER_HERTZ = os.sysconf("SC_CLK_TCK")


def usable_cpus() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def describe(threads: int) -> dict:
    return {
        "cpu": cpu_model(),
        "cores": len(usable_cpus()),
        "threads": threads,
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}, {' '.join(platform.libc_ver())}",
        "gpu": gpu_name(),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := installed(name))},
        "date": time.strftime("%Y-%m-%d"),
    }


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        fields = dict(
            [part.strip() for part in line.split(":", 1)]
            for line in cpuinfo.read_text().split("\n\n")[0].splitlines()
            if ":" in line
        )
        if "model name" in fields:
            numbers = ", ".join(
                f"{name} {fields[key]}" for name, key in (("family", "cpu family"), ("model", "model"))
            )
            known = [
                word for word in ("avx512f", "avx512_bf16", "amx_bf16") if word in fields["flags"].split()
            ]
            return f"{fields['model name']} ({numbers}; {', '.join(known) or 'no AVX-512'})"
    return platform.processor() or platform.machine()


def gpu_name() -> str | None:
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() or None
    except (OSError, subprocess.CalledProcessError):
        return None


def busy_seconds(cpus: list[int]) -> float | None:
    """Seconds since the start of the machine in which these CPUs worked, or were stolen by a neighbour."""
    try:
        lines = Path("/proc/stat").read_text().splitlines()
    except OSError:
        return None
    wanted, ticks = {f"cpu{number}" for number in cpus}, 0
    for line in lines:
        name, *fields = line.split()
        if name in wanted:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
            ticks += user + nice + system + irq + softirq + steal
    return ticks / USER_HERTZ


class Watch:
    """Measures a step: `with Watch() as watch: step()`, then `watch.times`.

    Args:
        may_wait: whether waiting is part of the step, as for a GPU.
    """

    def __init__(self, may_wait: bool = False):
        self.may_wait, self.cpus = may_wait, usable_cpus()

    def __enter__(self) -> "Watch":
        self.began = time.perf_counter(), time.process_time(), busy_seconds(self.cpus)
        return self

    def __exit__(self, *error) -> None:
        wall, cpu = time.perf_counter() - self.began[0], time.process_time() - self.began[1]
        self.times = {"wall": wall, "cpu": cpu, "others": None}
        if self.began[2] is not None:
            self.times["others"] = max(0.0, busy_seconds(self.cpus) - self.began[2] - cpu)
        self.times["disturbed"] = is_disturbed(self.times, len(self.cpus), self.may_wait)


def is_disturbed(times: dict, cpus: int, may_wait: bool = False) -> bool:
    """Whether the process waited for a CPU, or other processes worked on the CPUs that it may use."""
    too_idle = not may_wait and times["cpu"] < LEAST_BUSY * times["wall"]
    resolution = 2 / USER_HERTZ  # the kernel counts whole ticks
    others = times["others"] or 0.0
    return too_idle or others > OTHERS_ALLOWED * cpus * times["wall"] + resolution


def peak_memory() -> int | None:
    """Bytes of memory that this process held at most since it started, its imports included (VmHWM)."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
