"""The markers of transformers' own tests, which some modules here run; recipes as modules."""

import importlib.util
import sys
from pathlib import Path

MARKERS = (
    "accelerate_tests",
    "flash_attn_test",
    "flash_attn_3_test",
    "flash_attn_4_test",
    "is_training_test",
    "order",
    "torch_compile_test",
)


def pytest_configure(config):
    for marker in MARKERS:
        config.addinivalue_line("markers", f"{marker}: of transformers' own tests")


def load_recipe(name: str):
    """A script of recipes/ as a module."""
    path = Path(__file__).parents[1] / "recipes" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
