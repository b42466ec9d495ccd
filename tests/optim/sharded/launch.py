"""Starts processes that run all cells, once per number of processes, and keeps what came out."""

from __future__ import annotations

from pathlib import Path

import torch
from filelock import FileLock

from tests.launch import told, told_by
from tests.optim.sharded import worker
from tests.optim.sharded.checkpoints import ENDS

_PATIENCE_S = 1200  # some hundred cells


def results(folder: Path, world: int) -> list[dict[str, dict]]:
    """What all cells gave on every process; where tests run side by side, the first one starts the processes.

    Args:
        folder: Shared by all tests of a session.
        world: Number of processes.
    """
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "references.lock"):
        if not (folder / "references.pt").exists():
            torch.save(worker.references(), folder / "references.pt")
    directory = folder / str(world)
    if world < max(ENDS):
        results(folder, 2 * world)  # whose checkpoints are taken up
    with FileLock(folder / f"{world}.lock"):
        if not directory.exists():
            directory.mkdir()
            told_by("tests.optim.sharded.worker:work", world, directory, _PATIENCE_S)
    return told(world, directory)
