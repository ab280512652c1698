"""examples/notebook.ipynb, cell by cell in a real kernel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from example_programs import EXAMPLES, WAIT


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    """Cell by cell in a real kernel. It is kept without outputs, so that a change of it can be read."""
    reason = "nbclient or ipykernel is not installed: pip install -e '.[examples]'"
    nbclient = pytest.importorskip("nbclient", reason=reason)
    pytest.importorskip("ipykernel", reason=reason)
    import nbformat

    path = EXAMPLES / "notebook.ipynb"
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert path.stat().st_size < 20_000
    resources = {"metadata": {"path": str(EXAMPLES)}}
    environment = dict(os.environ, PYTHONPATH=str(EXAMPLES.parent), IPYTHONDIR=str(tmp_path))
    client = nbclient.NotebookClient(notebook, timeout=5 * WAIT, kernel_name="python3", resources=resources)
    with client.setup_kernel(env=environment):
        for index, cell in enumerate(notebook.cells):
            client.execute_cell(cell, index)
    shown = [output for cell in code for output in cell.outputs]
    text = "".join(output.text for output in shown if output.output_type == "stream")
    assert text.startswith("scores [") and text.endswith("the same masks: True\n")
    pictures = [output.data for output in shown if output.output_type == "execute_result"]
    assert len(pictures) == 6 and all("image/png" in picture for picture in pictures)


@pytest.mark.slow
def test_the_notebook_of_fine_tuning_runs(tmp_path: Path) -> None:
    """Its cells one after the other, in this process: nothing in them asks for a kernel."""
    notebook = json.loads((EXAMPLES / "finetune.ipynb").read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    text = "\n".join("".join(cell["source"]) for cell in code)
    environment = dict(os.environ, PYTHONPATH=str(EXAMPLES.parent), TMPDIR=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=EXAMPLES, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    kinds = [line.split(" ", 1)[0] for line in done.stdout.splitlines() if line.startswith(("step", "eval", "end"))]
    assert kinds == ["evaluation", "step", "step", "evaluation", "step", "step", "evaluation", "end"]
