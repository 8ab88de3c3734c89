"""The notebooks are committed without outputs, and run from the first cell to the last."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "examples/notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_committed_without_outputs(path: Path) -> None:
    cells = json.loads(path.read_text())["cells"]
    assert all(not cell.get("outputs") and not cell.get("execution_count") for cell in cells)


def run(notebook: object, folder: Path) -> list[dict[str, object]]:
    """The outputs of the cells of a notebook, run in `folder`."""
    client = pytest.importorskip("nbclient").NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    pytest.importorskip("ipykernel")
    return [output for cell in client.execute().cells for output in cell.get("outputs", [])]


@pytest.mark.long
@pytest.mark.thorough
@pytest.mark.network
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run_and_show_rows_figures_and_the_report(path: Path, tmp_path: Path) -> None:
    """With a tenth of the queries."""
    nbformat = pytest.importorskip("nbformat")
    code = path.read_text().replace("2000", "200").replace("500", "50")
    outputs = run(nbformat.reads(code, as_version=4), tmp_path)
    assert all(output["output_type"] != "error" for output in outputs)
    shown = " ".join(str(output.get("data", {}).get("text/html", "")) for output in outputs)  # type: ignore[attr-defined]
    assert "clone accuracy</th>" in shown
    assert shown.count("<iframe srcdoc=") >= 2
    assert "<progress" in shown


@pytest.mark.thorough
def test_a_bar_in_jupyter_is_live_below_the_cell_and_not_printed(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    code = "from stealguard.progress import bar\nwith bar('<work>', 3) as tick:\n    tick(1, 'one')"
    (output,) = run(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)]), tmp_path)
    html = output["data"]["text/html"]  # type: ignore[index]
    assert html.startswith('&lt;work&gt; <progress value="3" max="3">')
    assert html.endswith("one")
