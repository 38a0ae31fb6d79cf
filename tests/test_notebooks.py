"""The notebooks run from a clean start, on few updates, and what is committed is clean."""

import json

import pytest
from launch import ROOT, load_script

pytest.importorskip("nbclient", reason="the notebooks need pip install '.[notebooks]'")
pytest.importorskip("ipykernel", reason="the notebooks need pip install '.[notebooks]'")

NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
run_notebooks = load_script("examples/notebooks/run_notebooks.py")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    notebook = run_notebooks.execute(path, tmp_path, NOTEBOOK_UPDATES="3")
    lines = run_notebooks.messages(notebook).splitlines()
    assert not [line for line in lines if "Warning" in line and "ipywidgets" not in line]  # it is optional


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_outputs_are_kept_and_clean(path):
    text, cells = path.read_text(), json.loads(path.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == [*range(1, len(code) + 1)]  # run once, in order
    outputs = [output for cell in code for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert "/home/" not in text and "/tmp/" not in text and "site-packages" not in text
    assert len(text) < 300_000
