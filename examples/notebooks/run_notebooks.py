"""Run the notebooks and keep their outputs, without progress bars and times of execution.

python examples/notebooks/run_notebooks.py             # all of them
python examples/notebooks/run_notebooks.py attention translation
"""

import os
import sys
from pathlib import Path
from unittest import mock

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
QUIET = {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


def execute(path: Path, folder: Path, **environment: str) -> nbformat.NotebookNode:
    """Return the notebook with the outputs of a run in this folder.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(notebook, timeout=600, record_timing=False, resources=resources)
    with mock.patch.dict(os.environ, QUIET | environment):
        client.execute()
    return notebook


def messages(notebook: nbformat.NotebookNode) -> str:
    """Return what the cells wrote to stderr: progress bars, logs and warnings."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "".join(output["text"] for output in outputs if output.get("name") == "stderr")


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return the notebook as it is committed: without messages, and without what differs between machines."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            outputs = (output for output in cell.outputs if output.get("name") != "stderr")
            cell.outputs = [output for output in outputs if not is_table_of_scores(output)]
    notebook.metadata.language_info = {"name": "python"}
    return notebook


def is_table_of_scores(output: nbformat.NotebookNode) -> bool:
    """Whether this is a table that transformers draws of an evaluation, not the one of a training."""
    html = output.get("data", {}).get("text/html")
    return html is not None and not ("<progress" in html and "<td>" in html)


if __name__ == "__main__":
    for path in sorted(FOLDER.glob("*.ipynb")):
        if not sys.argv[1:] or path.stem in sys.argv[1:]:
            print(path.stem, flush=True)
            nbformat.write(clean(execute(path, FOLDER)), path)
