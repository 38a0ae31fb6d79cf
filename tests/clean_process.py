"""Runs Python where this package cannot be imported, as on a machine that has no more than transformers."""

import json
import os
import subprocess
import sys
from pathlib import Path

WITHOUT_PACKAGE = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "vanilla_transformer":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""


def run(script: str, home: Path, *arguments, with_package: bool = False, **environment):
    """The value that the script prints last, as JSON; `home` takes all that transformers caches."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHON"))}
    settings |= {"HF_HOME": str(home), "HF_MODULES_CACHE": str(home / "modules"), "HF_HUB_OFFLINE": "1"}
    if with_package:
        import vanilla_transformer

        settings["PYTHONPATH"] = str(Path(vanilla_transformer.__file__).parents[1])
    else:
        script = WITHOUT_PACKAGE + script
    finished = subprocess.run(
        [sys.executable, "-P", "-c", script, *map(str, arguments)],
        env={**settings, **environment},
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    if finished.returncode:
        raise AssertionError(finished.stderr[-6000:])
    return json.loads(finished.stdout.splitlines()[-1])
