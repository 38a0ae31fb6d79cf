"""What the pages of the documentation show: source code by name, Python with its output, and commands.

A comment before a block of code says what the block is:

    <!-- code: vanilla_transformer.layers.FeedForward -->   the source of this class or function
    <!-- not run: needs 8 GPUs -->                          the block is not run, for this reason
    <!-- run as: vanilla-transformer info tiny -->          this shorter command runs in place of the block

A block of the language `output` has what the Python or command before it prints; `...` stands for any text.
The Python blocks of a page share their names. `python no-run` is Python that needs the network.
"""

import ast
import doctest
import math
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "src"))  # the package of this checkout
PROGRAMS = re.compile(
    r"([A-Z_]+=\S+ )*(\.venv/bin/)?"
    r"((python|pip|make|pytest|pre-commit|vanilla-transformer|torchrun|accelerate|jupyter|mkdocs)\s"
    r"|(git|echo|cat|cut|paste|head|printf|taskset|cd)\s)"
)
DIRECTIVE = re.compile(r"<!-- (code|not run|run as): (.*?) -->", re.S)
MARKDOWN = MarkdownIt("commonmark").enable("table")
CHECKER = doctest.OutputChecker()
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+(?:e[+-]?\d+)?|e[+-]?\d+)")
MATCH = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass
class Block:
    """A block of a page: its `kind` is "code" (by name), "python" or "command"."""

    page: Path
    line: int  # from 1
    kind: str
    text: str
    name: str = ""  # of the source code
    not_run: str = ""  # the reason
    run_as: str = ""  # a shorter command
    output: str | None = None  # that the page shows
    output_lines: tuple[int, int] = (0, 0)  # of its text, from 0
    text_lines: tuple[int, int] = (0, 0)

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """Return the blocks of a page in their order."""
    found: list[Block] = []
    comments: dict[str, str] = {}  # for the next element of the page
    directives: dict[str, str] = {}  # of this element
    last: Block | None = None  # if nothing stands between it and this element
    for token in MARKDOWN.parse(page.read_text()):
        if token.level == 0 and token.nesting >= 0:
            if token.type == "html_block":
                comments |= dict(DIRECTIVE.findall(token.content))
                continue
            directives, comments = comments, {}
        line = (token.map or [0])[0] + 1
        reason, shorter = directives.get("not run", ""), directives.get("run as", "")
        if token.type == "inline":
            spans = [child.content for child in token.children or [] if child.type == "code_inline"]
            spans = [span for span in spans if PROGRAMS.match(span) and "\n" not in span]
            found += [Block(page, line, "command", span, not_run=reason, run_as=shorter) for span in spans]
        if token.type not in ("fence", "code_block"):
            last = None
            continue
        start, end = token.map or (0, 0)
        inner = (start + 1, end - 1) if token.type == "fence" else (start, end)
        language, *words = token.info.split() or [""]
        if language == "output" and last:
            last.output, last.output_lines = token.content, inner
            continue
        name = directives.get("code", "")
        kind = "code" if name else kind_of(language, token.content)
        reason = reason or ("needs the network" if "no-run" in words else "")
        last = Block(page, line, kind, token.content, name, reason, shorter, text_lines=inner)
        if kind:
            found.append(last)
    return found


def kind_of(language: str, text: str) -> str:
    if language == "python" or (not language and re.match(r"(from|import) ", text)):
        return "python"
    return "command" if language in ("", "sh", "bash") and any(commands(text)) else ""


def commands(text: str) -> Iterator[str]:
    """Yield the commands of a block, with continued lines joined and without their comments."""
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        line = re.sub(r"\s+#\s.*", "", line.strip())
        if PROGRAMS.match(line + " "):
            yield line


def source_of(name: str) -> str:
    """Return the source of a class, function or constant as it stands in its file.

    `package.module.Name.method`; with " without docstring" after it, the docstring is left out.
    """
    name, _, without = name.partition(" without ")
    path, definition = definition_of(name)
    lines = path.read_text().splitlines()
    first = min([definition.lineno, *(d.lineno for d in getattr(definition, "decorator_list", []))])
    kept = list(range(first - 1, definition.end_lineno))
    if without:
        docstring = definition.body[0]
        removed = range(
            docstring.lineno - 1, docstring.end_lineno + (not lines[docstring.end_lineno].strip())
        )
        kept = [index for index in kept if index not in removed]
    indent = len(lines[first - 1]) - len(lines[first - 1].lstrip())
    return "".join(f"{lines[index][indent:]}\n" for index in kept)


def definition_of(name: str) -> tuple[Path, Any]:
    """Return the file and the definition of a dotted name; ValueError if there is none."""
    words = name.split(".")
    places = [folder / Path(*words[:cut]) for folder in (ROOT / "src", ROOT) for cut in range(1, len(words))]
    files = [file for place in places if (file := place.with_suffix(".py")).is_file()]
    if not files:
        raise ValueError(f"there is no file for {name}")
    path = files[0]
    node: Any = ast.parse(path.read_text())
    for word in words[words.index(path.stem) + 1 :]:
        node = next((child for child in ast.iter_child_nodes(node) if word in names_of(child)), None)
        if node is None:
            raise ValueError(f"{path.relative_to(ROOT)} has no {word} of {name}")
    return path, node


def names_of(node: ast.AST) -> list[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def same_output(shown: str, printed: str) -> bool:
    """Whether the output that a page shows is what was printed; `...` stands for any text.

    Numbers with a fraction may differ by 5%, because other processors round differently. Below 1e-4 they are
    rounding errors themselves.
    """
    if not CHECKER.check_output(NUMBER.sub("#", shown), NUMBER.sub("#", printed), MATCH):
        return False
    ours, theirs = (
        [float(number.replace(",", "")) for number in NUMBER.findall(text)] for text in (shown, printed)
    )
    near = (math.isclose(our, their, rel_tol=0.05, abs_tol=1e-4) for our, their in zip(ours, theirs))
    return len(ours) != len(theirs) or all(near)  # other numbers stand where the page has "..."


def names_in(path: Path) -> set[str]:
    """Return the names of the classes, functions, methods and constants of a file: `Name.method`."""
    module = ast.parse(path.read_text())
    names = {name for node in module.body for name in names_of(node)}
    for node in module.body:
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{name}" for child in node.body for name in names_of(child)}
    return names


def replace(page: Path, changes: list[tuple[tuple[int, int], str]]) -> None:
    """Write other text into the given lines of a page."""
    lines = page.read_text().splitlines(keepends=True)
    for (start, end), text in sorted(changes, reverse=True):
        lines[start:end] = [text if text.endswith("\n") else text + "\n"]
    page.write_text("".join(lines))
