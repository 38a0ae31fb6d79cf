"""The documentation: its Python runs, its links lead somewhere, and its commands name files that exist."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PAGES = [
    path
    for path in sorted(ROOT.rglob("*.md"))
    if not {".venv", ".cache", "outputs", ".git"} & set(path.relative_to(ROOT).parts)
]


def test_the_code_of_the_usage_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "usage.md").read_text(), re.M | re.S)
    names: dict[str, object] = {}
    for block in blocks:  # each continues the one before
        exec(compile(block, "docs/usage.md", "exec"), names)
    assert names["loss"].isfinite() and names["trainer"].state.global_step == 20


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_name_files_of_the_repository(page):
    named = re.findall(
        r"\b(?:recipes|benchmarks|tools|examples|tests)/[\w/]+\.(?:py|yaml)\b", page.read_text()
    )
    assert not [path for path in named if not (ROOT / path).exists()]


def test_the_oldest_constraints_are_the_lower_bounds():
    """pyproject.toml accepts nothing older than what `make test-oldest` installs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {k: v for k, v in project["optional-dependencies"].items() if k != "dev"}
    requirements = sum(extras.values(), project["dependencies"])
    bounds = re.findall(r"^([\w-]+)>=([\d.]+)", "\n".join(requirements), re.M)
    pins = dict(re.findall(r"^([\w-]+)==(.+)$", (ROOT / "constraints-oldest.txt").read_text(), re.M))
    pins = {name.lower().replace("_", "-"): Version(version) for name, version in pins.items()}
    assert len(bounds) > 10
    for name, bound in bounds:
        release = Version(bound).release
        assert pins[name].release[: len(release)] == release, name
