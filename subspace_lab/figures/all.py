"""All figures of a run, as files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from matplotlib.figure import Figure

from subspace_lab.figures import (
    angle_drift,
    depth_overlap,
    energy_by_rank,
    energy_over_depth,
    energy_over_training,
    loss_over_training,
    spectrum,
    stale_energy,
    tangent_spectrum,
    task_metrics,
)
from subspace_lab.figures.loss import FIGURES as LOSS_FIGURES
from subspace_lab.figures.loss.over_depth import OverDepth
from subspace_lab.figures.style import PAGE, Picture, style
from subspace_lab.figures.tables import AbsentError
from subspace_lab.runs import Run, RunError
from subspace_lab.runs.files import publish, unwritable
from subspace_lab.runs.run import check_run

FIGURES: dict[str, ModuleType] = {
    "energy_over_training": energy_over_training,
    "energy_over_depth": energy_over_depth,
    "energy_by_rank": energy_by_rank,
    "stale_energy": stale_energy,
    "angle_drift": angle_drift,
    "depth_overlap": depth_overlap,
    "tangent_spectrum": tangent_spectrum,
    "spectrum": spectrum,
    "loss": loss_over_training,
}
TASK_FIGURES: dict[str, ModuleType] = {"task_metrics": task_metrics}
_OPTIONS: dict[str, dict[str, Any]] = {  # without dates and versions: the same tables give the same bytes
    "png": {"dpi": 200, "facecolor": "white", "metadata": {"Software": None}},
    "pdf": {"facecolor": "white", "metadata": {"CreationDate": None, "Creator": None, "Producer": None}},
}


def draw_all(run: Run) -> list[Path]:
    """Draw every figure that the run holds what it takes for, as PNG and PDF in ``figures/``.

    A figure that cannot be drawn is left out, and one of an earlier analysis is removed: what lies there belongs to
    the tables. The same tables give the same bytes.

    Args:
        run: A run that was analysed.

    Returns:
        The files, in the order of the report.

    Raises:
        RunError: If a table cannot be read or a file cannot be written.
    """
    check_run(run)
    return save_all({**FIGURES, **TASK_FIGURES, **LOSS_FIGURES}, run, run.path / "figures")


def save_all(figures: Mapping[str, ModuleType | OverDepth | Picture], source: Any, directory: Path) -> list[Path]:
    """Draw figures from what they are drawn from, as PNG and PDF.

    Args:
        figures: Figures, or their files, by name.
        source: A run, or the tables of a comparison.
        directory: Where they go; a figure that cannot be drawn is removed from it.

    Returns:
        The files.
    """
    written = []
    for name, drawing in figures.items():
        paths = [directory / f"{name}.{suffix}" for suffix in _OPTIONS]
        try:
            figure = drawing.draw(source)
        except AbsentError:
            _remove(paths)
            continue
        for path in paths:
            save(figure, path)
        written += paths
    return written


def save(figure: Figure, path: Path) -> None:
    """Publish a figure.

    Args:
        figure: From a figure's ``draw``.
        path: Where it goes; the suffix chooses between PNG and PDF.

    Raises:
        RunError: If it cannot be written.
    """
    with publish(path) as aside, style(PAGE):
        figure.savefig(aside, format=path.suffix[1:], **_OPTIONS[path.suffix[1:]])


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise RunError(unwritable(path, error)) from error
