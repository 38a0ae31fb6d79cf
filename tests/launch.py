"""Run recipes in this process, or as programs of one or several processes."""

import contextlib
import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from unittest import mock

from vanilla_transformer.tasks import parse, start

ROOT = Path(__file__).parents[1]


def load_script(path: str) -> ModuleType:
    """Return a script, such as recipes/seq2seq.py, as a module."""
    name = Path(path).stem
    spec = importlib.util.spec_from_file_location(name, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up their module
    spec.loader.exec_module(module)
    return module


def parse_recipe(name: str, *words: object) -> tuple:
    """Return the settings of recipes/<name>.py for these words of the command line."""
    recipe = load_script(f"recipes/{name}.py")
    with contextlib.chdir(ROOT):
        return parse(
            *recipe.SETTINGS,
            argv=[str(word) for word in words],
            defaults=getattr(recipe, "DEFAULTS", None),
            unused=getattr(recipe, "UNUSED", ()),
        )


def run_recipe(name: str, *words: object) -> None:
    """Run recipes/<name>.py in this process, from the repository's folder. Errors are raised."""
    recipe, argv = load_script(f"recipes/{name}.py"), [str(word) for word in words]
    with contextlib.chdir(ROOT), mock.patch.object(sys, "argv", [f"recipes/{name}.py", *argv]):
        defaults, unused = getattr(recipe, "DEFAULTS", None), getattr(recipe, "UNUSED", ())
        start(recipe.main, recipe.SETTINGS, defaults, argv, unused)


def launch(
    script: str, *words: object, processes: int = 1, launcher: str = "torchrun", timeout: float = 600
) -> subprocess.CompletedProcess[str]:
    """Run a script as a program of one or several processes on the CPU, from the repository's folder.

    Args:
        launcher: "torchrun" or "accelerate", for several processes.
    """
    command = [sys.executable]
    if processes > 1 and launcher == "torchrun":
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    elif processes > 1:
        command += ["-m", "accelerate.commands.launch", "--config_file=recipes/accelerate/cpu.yaml"]
        command += [f"--num_processes={processes}", f"--main_process_port={free_port()}"]
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [*command, script, *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]
