"""The program `vanilla-transformer`. It starts without torch, so that --help and completion answer at once.

Importing the package imports torch and transformers, which takes seconds. Here its `__init__` waits until
something looks for one of its names; `vanilla_transformer.cli` does so once a verb runs.
"""

import importlib.util
import sys
from types import ModuleType
from typing import Any

PACKAGE = "vanilla_transformer"


class Deferred(ModuleType):
    """The package before its `__init__` ran. A missing name runs it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system looks for some that no module has
            raise AttributeError(name)
        self.__class__ = ModuleType  # type: ignore[assignment]
        assert self.__spec__ is not None and self.__spec__.loader is not None
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)


def main() -> None:
    if PACKAGE not in sys.modules:
        spec = importlib.util.find_spec(PACKAGE)
        assert spec is not None
        package = importlib.util.module_from_spec(spec)
        package.__class__ = Deferred
        sys.modules[PACKAGE] = package
    from vanilla_transformer.cli import main as run

    run()


if __name__ == "__main__":
    main()
