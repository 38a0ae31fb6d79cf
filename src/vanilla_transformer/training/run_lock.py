"""One run at a time in an output_dir."""

import atexit
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import SoftFileLock, Timeout

LOCK = "run.lock"

_held: dict[Path, SoftFileLock] = {}


class FolderInUse(OSError):
    """Another run writes in the folder."""


def lock_run(folder: str | Path) -> None:
    """Reserve a folder for this process until it ends. A second call does nothing.

    The file `run.lock` holds process id and host. The lock of a process that died on this machine is
    ignored.

    Raises:
        FolderInUse: another process has the lock.
    """
    path = Path(folder).resolve() / LOCK
    if path in _held:
        return
    lock = SoftFileLock(path)
    try:
        lock.acquire(timeout=1, poll_interval=0.05)
    except Timeout:
        process, host = (*path.read_text(encoding="utf-8", errors="replace").split(), "?", "?")[:2]
        raise FolderInUse(
            f"output_dir: process {process} on {host} trains in {folder}: wait for its end, or choose "
            f"another output_dir. If that process no longer runs, delete {path}"
        ) from None
    _held[path] = lock


def unlock_run(folder: str | Path) -> None:
    """Give a folder back, if this process has reserved it."""
    if lock := _held.pop(Path(folder).resolve() / LOCK, None):
        lock.release(force=True)


@contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Reserve a folder for the time of a block, unless this process has reserved it for longer."""
    path = Path(folder).resolve() / LOCK
    reserved_before = path in _held
    lock_run(folder)
    try:
        yield
    finally:
        if not reserved_before:
            unlock_run(folder)


@atexit.register
def _unlock_all() -> None:
    while _held:
        _held.popitem()[1].release(force=True)
