"""Register the markers of transformers' own tests, which some modules here run."""

from launch import load_script

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
    return load_script(f"recipes/{name}.py")
