"""Run what the documentation shows: source code by name, Python with its output, and every command.

    python tools/check_docs.py                        # README.md, docs, recipes, examples
    python tools/check_docs.py docs/training.md       # this page
    python tools/check_docs.py --write docs           # renew source code and outputs that differ

Commands run in a folder of their own with the repository's files and small data sets. Long ones are shortened
(`docs_commands.py`). It prints a line for each block and command, and fails if one fails.
"""

import argparse
import contextlib
import io
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docs_commands import shortened
from docs_sandbox import make_sandbox, remove_untrained
from pages import ROOT, Block, blocks_of, commands, replace, same_output, source_of

PAGES = ["README.md", "CONTRIBUTING.md", "docs", "recipes", "examples"]
EVERYTHING = ("code", "python", "command")
LIMIT = 900  # seconds of a command
SOME_BAD_LINES = 3  # an exit status of the command, see docs/cli.md


@dataclass
class Row:
    """The result of a block or of one of its commands: "ok", "skipped" or "FAILED"."""

    place: str
    what: str
    seconds: float
    result: str
    details: str = ""


class Page:
    """Runs the blocks of a page in the working directory; its Python blocks share their names."""

    def __init__(self, path: Path, kinds: Collection[str] = EVERYTHING, write: bool = False):
        self.path, self.kinds, self.write = path, kinds, write
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.changes: list[tuple[tuple[int, int], str]] = []

    def rows(self) -> Iterator[Row]:
        for block in blocks_of(self.path):
            if block.kind not in self.kinds:
                continue
            start = time.perf_counter()
            for what, result, details in self.run(block):
                seconds = time.perf_counter() - start
                yield Row(block.place, " ".join(what.split()), seconds, result, details)
                start = time.perf_counter()
        replace(self.path, self.changes)

    def run(self, block: Block) -> Iterator[tuple[str, str, str]]:
        if block.kind == "code":
            yield f"source of {block.name}", *self.source(block)
        elif block.not_run:
            yield block.text, "skipped", block.not_run
        elif block.kind == "python":
            yield block.text, *self.python(block)
        else:
            yield from self.commands(block)

    def source(self, block: Block) -> tuple[str, str]:
        try:
            source = source_of(block.name)
        except ValueError as error:
            return "FAILED", str(error)
        return self.compare(block.text == source, block.text_lines, source)

    def python(self, block: Block) -> tuple[str, str]:
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                exec(compile(block.text, block.place, "exec"), self.names)
        except Exception:
            return "FAILED", traceback.format_exc(limit=-2)
        return self.output(block, printed.getvalue())

    def commands(self, block: Block) -> Iterator[tuple[str, str, str]]:
        printed = ""
        for command in commands(block.text):
            run, note = (block.run_as, "") if block.run_as else shortened(command)
            if not run:
                yield command, "skipped", note
                continue
            remove_untrained(run)
            shell = ["timeout", str(LIMIT), "bash", "-euo", "pipefail", "-c", run]
            done = subprocess.run(shell, capture_output=True, text=True, stdin=subprocess.DEVNULL)
            printed += done.stdout
            if done.returncode == SOME_BAD_LINES and "vanilla-transformer" in run:
                note = "some lines were bad: an untrained model writes any bytes"
            elif done.returncode:
                error = (done.stderr or done.stdout)[-1000:]
                yield command, "FAILED", f"{run}\nexit status {done.returncode}: {error}"
                return
            yield command, "ok", note or (f"as {run}" if run != command else "")
            if block.run_as:
                break
        if block.output is not None:
            yield "its output", *self.output(block, printed)

    def output(self, block: Block, printed: str) -> tuple[str, str]:
        if block.output is None:
            return "ok", ""
        return self.compare(same_output(block.output, printed), block.output_lines, printed)

    def compare(self, same: bool, lines: tuple[int, int], text: str) -> tuple[str, str]:
        if same:
            return "ok", ""
        if self.write:
            self.changes.append((lines, text))
            return "ok", "written"
        return "FAILED", f"now it is (python tools/check_docs.py --write):\n{text}"


def pages_of(names: list[str]) -> list[Path]:
    paths = [ROOT / name for name in names]
    return [page for path in paths for page in (sorted(path.rglob("*.md")) if path.is_dir() else [path])]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("pages", nargs="*", default=PAGES, help="files or folders of the repository")
    parser.add_argument("--write", action="store_true", help="renew source code and outputs that differ")
    parser.add_argument("--kinds", nargs="*", choices=EVERYTHING, default=EVERYTHING)
    args = parser.parse_args()
    counts: Counter[str] = Counter()
    for page in pages_of(args.pages):
        with tempfile.TemporaryDirectory() as folder:
            if any(block.kind in args.kinds and block.kind != "code" for block in blocks_of(page)):
                make_sandbox(Path(folder))
            os.chdir(folder)
            for row in Page(page, args.kinds, args.write).rows():
                counts[row.result] += 1
                what = row.what if len(row.what) <= 90 else row.what[:87] + "..."
                print(f"{row.seconds:6.1f} s  {row.result:7}  {row.place}  {what}", flush=True)
                if row.details:
                    print(f"{'':19}{row.details}", flush=True)
            os.chdir(ROOT)
    print(", ".join(f"{count} {result}" for result, count in sorted(counts.items())))
    return 1 if counts["FAILED"] else 0


if __name__ == "__main__":
    sys.exit(main())
