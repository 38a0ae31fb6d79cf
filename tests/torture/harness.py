"""Run trials in forked processes, and print what happened as a table."""

import contextlib
import os
import random
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

HANG = 120  # seconds after which a trial counts as hanging


@dataclass
class Row:
    """One kind of fault in the table."""

    fault: str
    tries: int = 0
    lost: int = 0  # trials whose end differs from that of an undisturbed run, or that lost finished work
    said: Counter[str] = field(default_factory=Counter)

    def note(self, said: str, lost: bool = False) -> None:
        self.tries += 1
        self.lost += lost
        self.said[said] += 1
        if lost:
            print(f"LOST: {self.fault}: {said}", file=sys.stderr, flush=True)


def table(rows: list[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| fault | tries | lost | said |", "|---|---|---|---|"]
    for row in rows:
        said = "; ".join(
            f"{text} ({count})" if count > 1 else text for text, count in row.said.most_common(4)
        )
        lines.append(f"| {row.fault} | {row.tries} | {row.lost} | {said.replace('|', '/')} |")
    return "\n".join(lines)


class Trial:
    """A function in a forked process, whose output and errors go to a file.

    It ends with status 0, with the status of SystemExit, or with 1 and one line `error: …` or a traceback.
    """

    def __init__(self, log: Path, function: Callable[..., object], *arguments: object, **options: object):
        self.log, self.started = log, time.monotonic()
        self.process = os.fork()
        if self.process == 0:
            self._run(function, arguments, options)

    def _run(self, function: Callable[..., object], arguments: tuple, options: dict) -> None:
        from vanilla_transformer.tasks.running import explained

        os.setpgid(0, 0)
        output = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        status = 1
        try:
            function(*arguments, **options)
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except BaseException as error:
            message = explained(error) if isinstance(error, Exception) else None
            text = f"error: {message}\n" if message else traceback.format_exc()
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))  # the log, too, is a file
            with contextlib.suppress(OSError):
                os.write(2, text.encode(errors="replace"))
        finally:
            os._exit(status)

    def kill(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process, number)

    def wait(self, timeout: float = HANG) -> int:
        """Return the status as `subprocess` does: -9 after SIGKILL; -1000 if it hung and was killed."""
        deadline = time.monotonic() + timeout
        while True:
            process, status = os.waitpid(self.process, os.WNOHANG)
            if process:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > deadline:
                os.kill(self.process, signal.SIGKILL)
                os.waitpid(self.process, 0)
                return -1000
            time.sleep(0.002)

    def said(self) -> str:
        """The last line that says something, without the parts that differ from trial to trial."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        errors = [line for line in lines if line.startswith("error: ")]
        if errors:
            return errors[-1]
        if "Traceback" in "\n".join(lines):
            return f"TRACEBACK {lines[-1]}"
        return "nothing"


def moments(count: int, longest: float, seed: int = 0) -> list[float]:
    """Random times in seconds, evenly spread over `longest`."""
    draw = random.Random(seed)
    return [longest * (index + draw.random()) / count for index in draw.sample(range(count), count)]
