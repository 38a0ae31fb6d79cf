"""Hooks of mkdocs: links that leave docs/ lead to the repository, and formulas become MathML.

The pages are written for a forge, which shows the files of the whole repository and renders `$…$`. MathML
needs no script and no network in the browser.
"""

import html
import logging
import os
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

log = logging.getLogger("mkdocs.hooks")  # with `strict: true` a warning fails the build
DOCS = Path(__file__).parents[1] / "docs"
FENCE = re.compile(r"^ *(?:```|~~~).*?^ *(?:```|~~~) *$", re.M | re.S)
LINK = re.compile(r"(\]\()(\.\.?/[^)\s#]+)((?:#[^)\s]*)?\))")
FORMULA = re.compile(r'<(span|div) class="arithmatex">(.*?)</\1>', re.S)


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    here = Path(page.file.abs_src_path).parent

    def to_repository(link: re.Match) -> str:
        target = Path(os.path.normpath(here / link[2]))
        if target.is_relative_to(DOCS):
            return link[0]  # mkdocs checks it
        path = target.relative_to(DOCS.parent)
        if not target.exists():
            log.warning(f"{page.file.src_path} links to {path}, which does not exist")
        kind = "tree" if target.is_dir() else "blob"
        return f"{link[1]}{config.repo_url.rstrip('/')}/{kind}/main/{path}{link[3]}"

    return outside_fences(markdown, lambda text: LINK.sub(to_repository, text))


def outside_fences(markdown: str, change: Any) -> str:
    """Apply `change` to the text between fenced blocks; fences lose the words that only the checks read."""
    pieces, end = [], 0
    for fence in FENCE.finditer(markdown):
        opening, rest = fence[0].split("\n", 1)
        language = re.match(r" *(?:```|~~~)\w*", opening)
        assert language is not None
        pieces += [change(markdown[end : fence.start()]), language[0], "\n", rest]
        end = fence.end()
    return "".join([*pieces, change(markdown[end:])])


def on_page_content(content: str, **kwargs: Any) -> str:
    return FORMULA.sub(mathml, content)


def mathml(formula: re.Match) -> str:
    tex = html.unescape(formula[2]).strip()  # \( … \) or \[ … \]
    return convert(tex[2:-2], display="block" if formula[1] == "div" else "inline")
