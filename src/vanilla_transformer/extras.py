"""One-line errors for packages that belong to an extra which is not installed."""

from collections.abc import Iterator
from contextlib import contextmanager

REPOSITORY = "https://github.com/vanilla-transformer/vanilla-transformer"


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Turn the error of a missing package into one line that names the extra to install.

    Raises:
        ModuleNotFoundError: an import in this block failed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if "install the extra" in str(error):  # an inner block has said it
            raise
        raise ModuleNotFoundError(
            f"{error.name} is missing: install the extra [{name}] with `pip install '.[{name}]'` in a clone "
            f"or with `pip install 'vanilla-transformer[{name}] @ git+{REPOSITORY}'`",
            name=error.name,
        ) from None
