"""What several commands do with a run: measure it, draw it, and say what came out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from subspace_lab.analysis.loss.of_run import Checkpoints
    from subspace_lab.runs import Run


def measure(
    run: Run,
    *,
    executor: Literal["local", "slurm"] = "local",
    workers: int | None = None,
    slurm: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> None:
    """All tables, with one layer per core and one thread per layer: small eigenproblems do not thread well.

    Args:
        run: Open for writing.
        executor: Threads of this process, or jobs of Slurm, one for the same layer of all blocks.
        workers: Layers worked on at once; one per core by default, or as many as Slurm gives.
        slurm: Options of Slurm.
        arguments: Of `subspace_lab.analysis.analyze`.
    """
    from concurrent.futures import ThreadPoolExecutor

    import torch

    from subspace_lab._checks import whole_number
    from subspace_lab.analysis import analyze as all_tables
    from subspace_lab.experiments.executors.choose import check_execution

    check_execution(executor, workers, slurm)
    if executor == "slurm":
        from subspace_lab.experiments.executors.futures import SlurmFutures

        with SlurmFutures(run.path / "slurm", workers, slurm) as jobs:
            all_tables(run, executor=jobs, **arguments)
        return
    num_workers = whole_number("workers", (os.cpu_count() or 1) if workers is None else workers)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(num_workers) as pool:
            all_tables(run, executor=pool, **arguments)
    finally:
        torch.set_num_threads(threads)


def measure_hessian(run: Run, checkpoints: Checkpoints, **arguments: Any) -> None:
    """The tables of the loss's Hessian, and a line for what did not converge.

    Args:
        run: Open for writing.
        checkpoints: Its restored checkpoints.
        arguments: Of `subspace_lab.analysis.hessian_of_run`.
    """
    from subspace_lab._text import count
    from subspace_lab.analysis import hessian_of_run

    table = hessian_of_run(run, checkpoints, **arguments)["hessian"]
    if missed := int((~table["converged"]).sum()):
        print(f"note: {missed} of {count(len(table), 'eigenvalue')} did not converge; the table marks them")


def conclude(run: Run, *, most: int | None = None, disk: bool = False) -> None:
    """Draw figures and report, and print what the tables say and where the report is.

    Args:
        run: An analysed run.
        most: Findings to print; all by default.
        disk: Whether to tell how much disk the run takes.
    """
    from subspace_lab.analysis import findings

    told = draw(run)  # first, since whoever reads the output may stop reading
    found = findings(run)
    for finding in found[:most]:
        print(f"\n{finding.title}\n  {finding.text}")
    if not found:
        print("\nno findings: no captured gradient is finite and other than zero")
    print()
    if disk:
        print(_disk_of(run.path))
    print(told)


def draw(run: Run) -> str:
    """Draw figures and report.

    Args:
        run: An analysed run, open for writing.

    Returns:
        Where they are.
    """
    from subspace_lab.figures import draw_all
    from subspace_lab.report import write_report

    figures = draw_all(run)
    return f"{len(figures)} figure files in {run.path / 'figures'}\nreport: {write_report(run)}"


def _disk_of(run_dir: Path) -> str:
    from subspace_lab.runs.errors import in_shell

    parts = ", ".join(f"{part} {_megabytes(run_dir / part)}" for part in ("snapshots", "checkpoints"))
    return (
        f"disk: {_megabytes(run_dir)} MB ({parts}); to free it: rm -r {in_shell(run_dir)}\n"
        "for a smaller one: subspace-lab train with --keep topk:64, or with a larger --every"
    )


def _megabytes(directory: Path) -> int:
    return round(sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()) / 1e6)
