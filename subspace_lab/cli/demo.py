"""``subspace-lab demo``."""

from __future__ import annotations

from pathlib import Path

from subspace_lab.cli.parameters import RunDir
from subspace_lab.cli.steps import conclude, measure
from subspace_lab.training.config import TrainConfig


def demo(run_dir: RunDir = Path("runs/demo"), /, *, steps: int = 200) -> None:
    """Train a small LLaMA on the source text of Python's standard library, analyse its gradients, write the report.

    It takes some minutes, and at 200 steps about 400 MB of disk, which it tells in the end.

    Parameters
    ----------
    run_dir
        Where the run goes; a demo that is there already is resumed or analysed again.
    steps
        Optimizer steps.
    """
    from subspace_lab.runs import Run
    from subspace_lab.runs.manifest import MANIFEST
    from subspace_lab.training import train as start

    config = TrainConfig(data="stdlib", steps=steps, every=10, eval_every=50)
    there = (run_dir / MANIFEST).exists()
    if there:
        _check_same_demo(run_dir, config)
    if not (there and Run.open(run_dir).manifest.get("finished")):
        start(run_dir, config, resume=there)
    run = Run.open(run_dir, write=True)
    measure(run)
    conclude(run, most=3, disk=True)


def _check_same_demo(run_dir: Path, config: TrainConfig) -> None:
    from subspace_lab.runs import RunError
    from subspace_lab.training import stored_config

    try:
        config.matched(stored_config(run_dir))
    except ValueError as error:
        raise RunError(f"{run_dir} holds another run ({error}); choose another directory for this one") from error
