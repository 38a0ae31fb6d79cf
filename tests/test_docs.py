"""The documentation: its code and outputs are true, its links lead somewhere, its commands name files."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.version import Version

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import check_docs  # noqa: E402
import pages  # noqa: E402
import site_hooks  # noqa: E402
from check_docs import Page  # noqa: E402
from docs_commands import shortened  # noqa: E402
from docs_sandbox import make_models  # noqa: E402
from pages import names_in, same_output  # noqa: E402

PAGES = [
    path
    for path in sorted(ROOT.rglob("*.md"))
    if not {".venv", ".cache", "outputs", "site", ".git"} & set(path.relative_to(ROOT).parts)
]


IDS = {"ids": lambda path: str(path.relative_to(ROOT))}
# Of the other pages `make docs-check` runs the Python: it needs models that their commands train.
RUN_HERE = [
    *(ROOT / "docs" / f"{name}.md" for name in ("architecture", "paper_index", "training", "usage")),
    *(ROOT / "docs" / "how_to" / f"{name}.md" for name in ("choose_size", "many_gpus", "troubleshoot")),
]


@pytest.mark.parametrize("page", PAGES, **IDS)
def test_the_source_code_on_a_page_is_that_of_its_file(page):
    assert not failures(page, "code")


@pytest.mark.parametrize("page", RUN_HERE, **IDS)
def test_the_python_of_a_page_prints_what_the_page_shows(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not failures(page, "python")


def test_the_python_of_the_pictures_runs_with_untrained_models(tmp_path, monkeypatch):
    make_models(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert not failures(ROOT / "docs" / "pictures.md", "python")
    assert (tmp_path / "attention.svg").is_file() and (tmp_path / "attention.html").is_file()


def failures(page, kind):
    return [row for row in Page(page, [kind]).rows() if row.result == "FAILED"]


@pytest.mark.parametrize("page", PAGES, **IDS)
def test_links_named_after_code_lead_to_its_file(page):
    """`[`AddNorm.forward`](../src/vanilla_transformer/layers.py)`: layers.py has AddNorm.forward."""
    links = re.findall(r"\[`([A-Za-z_][\w.]*)`\]\(([^)#]+\.py)\)", page.read_text())
    missing = [
        (name, file)
        for name, file in links
        if not name.endswith(".py") and name not in names_in(page.parent / file)
    ]
    assert not missing


@pytest.mark.parametrize("shown, status", [("def one():\n    return 1\n", 0), ("def one(): ...\n", 1)])
def test_the_check_fails_if_a_page_is_wrong(shown, status, tmp_path, monkeypatch, capsys):
    (tmp_path / "module.py").write_text("def one():\n    return 1\n")
    (tmp_path / "page.md").write_text(f"<!-- code: module.one -->\n```python\n{shown}```\n")
    for module in (check_docs, pages):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["check_docs.py", "page.md", "--kinds", "code"])
    assert check_docs.main() == status
    assert ("FAILED" in capsys.readouterr().out) == bool(status)


def test_the_check_runs_recipes_on_few_rows_and_two_processes():
    recipe = "recipes/seq2seq.py recipes/translation/"
    run, _ = shortened(f"torchrun --nproc-per-node 8 {recipe}wmt14_en_de_big.yaml")
    assert "--nproc-per-node 2 " in run and "quickstart.yaml" in run and "--max_steps 2" in run
    run, reason = shortened(f"python {recipe}multi30k_en_de_tiny.yaml")
    assert not run and reason.startswith("needs the data ")
    run, _ = shortened(f"python {recipe}multi30k_en_de_tiny.yaml --train_file mine.parquet")
    assert "mine.parquet" in run and "--max_train_samples" in run
    (command,) = pages.commands(
        "OMP_NUM_THREADS=1 python recipes/paper/grid.py --rows base \\\n    --seeds 3\n"
    )
    assert command == "OMP_NUM_THREADS=1 python recipes/paper/grid.py --rows base --seeds 3"
    run, _ = shortened(command)
    assert "--seeds 1 " in run and "--max_steps 2" in run
    assert shortened("python recipes/paper/grid.py --report") == ("python recipes/paper/grid.py --report", "")


def test_numbers_may_differ_by_rounding_and_integers_may_not():
    assert same_output("loss 2.50, error 3e-07", "loss 2.51, error 8e-08")
    assert not same_output("loss 2.50", "loss 2.90")
    assert not same_output("63,082,496 weights", "63,082,497 weights")
    assert same_output("first\n...\nlast 1.5", "first\n2.5\n3.5\nlast 1.5")


@pytest.mark.parametrize("page", PAGES, **IDS)
def test_links_lead_to_files_and_headings(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    missing = []
    for link, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", text):
        target = page.parent / link if link else page
        if "://" not in link and (not target.exists() or (anchor and anchor not in anchors(target))):
            missing.append(f"{link}#{anchor}")
    assert not missing


def anchors(page):
    """The anchors that a forge gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, **IDS)
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


def test_links_out_of_the_docs_lead_to_the_repository(caplog):
    page = SimpleNamespace(file=SimpleNamespace(abs_src_path=ROOT / "docs" / "a.md", src_path="a.md"))
    config = SimpleNamespace(repo_url="https://forge/project/")
    text = "[b](b.md) [code](../src/vanilla_transformer/layers.py#x) [all](../src) [no](../no.py)\n"
    shown = site_hooks.on_page_markdown(
        f"{text}```python no-run\nf[0](../src)\n```\n", page=page, config=config, files=None
    )
    forge = "https://forge/project/{}/main/src"
    assert f"[b](b.md) [code]({forge.format('blob')}/vanilla_transformer/layers.py#x)" in shown
    assert f"[all]({forge.format('tree')})" in shown and shown.endswith("```python\nf[0](../src)\n```\n")
    assert [record.message for record in caplog.records] == ["a.md links to no.py, which does not exist"]


def test_formulas_become_mathml():
    shown = site_hooks.on_page_content(r'<p><span class="arithmatex">\(a &lt; \sqrt{d_k}\)</span></p>')
    assert "<math" in shown and "<msqrt>" in shown and "&#x0003C;" in shown and "arithmatex" not in shown


def test_the_site_builds_without_a_warning(tmp_path):
    """Links between pages, their headings, the navigation and the names of the reference are right."""
    site = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", tmp_path]
    done = subprocess.run(site, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
