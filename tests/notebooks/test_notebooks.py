"""The notebooks run, and the executed copies beside them are of the same source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.slow

SCRIPTS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.py"))


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def num_images(notebook: Any) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs(notebook))


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_notebook_runs(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty directory, where there is no demo run, with the pictures of the committed copy."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    notebook = jupytext.read(script)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert num_images(notebook) == num_images(nbformat.read(script.with_suffix(".ipynb"), as_version=4))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_executed_copy(script: Path) -> None:
    """If this fails: jupytext --to ipynb notebooks/X.py && jupyter execute --inplace notebooks/X.ipynb"""
    source, executed = jupytext.read(script), nbformat.read(script.with_suffix(".ipynb"), as_version=4)
    assert [(cell.cell_type, cell.source) for cell in executed.cells] == [
        (cell.cell_type, cell.source) for cell in source.cells
    ]
    assert num_images(executed) >= 4
    assert not [output for output in outputs(executed) if output.output_type == "error"]
    counts = [cell.execution_count for cell in executed.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))  # executed once, from top to bottom


def test_there_are_notebooks() -> None:
    assert SCRIPTS
