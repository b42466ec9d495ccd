"""The command line: parse, call, print."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, CycloptsError, Parameter

from subspace_lab._version import __version__
from subspace_lab.training.config import TrainConfig

if TYPE_CHECKING:
    from subspace_lab.runs import Run

app = App(
    name="subspace-lab",
    help="The laboratory for gradient subspaces: capture gradients, measure the space they live in, report.",
    version=__version__,
    suppress_keyboard_interrupt=False,  # main says how to go on
)

RunDir = Annotated[Path, Parameter(name="RUN_DIR")]
Config = Annotated[TrainConfig, Parameter(name="*", consume_multiple=True, negative_iterable=())]


@app.command
def train(run_dir: RunDir, /, config: Config | None = None, *, resume: bool = False) -> None:
    """Train a small language model while its gradients are captured.

    Parameters
    ----------
    run_dir
        Where the run goes; must not hold anything yet.
    config
        Settings of the training and of the capture.
    resume
        Go on with an interrupted run, from its last checkpoint.
    """
    from subspace_lab.training import train as start

    start(run_dir, config, resume=resume)
    print(f"next: subspace-lab analyze {run_dir}")


@app.command
def analyze(
    run_dir: RunDir,
    /,
    *,
    ranks: Annotated[tuple[int, ...] | None, Parameter(consume_multiple=True)] = None,
    rank: int | None = None,
    lags: Annotated[tuple[int, ...], Parameter(consume_multiple=True)] = (1, 2, 4, 8, 16),
    top: int = 20,
    workers: int | None = None,
) -> None:
    """Measure a run: tables, figures, report.html and what they say.

    Parameters
    ----------
    run_dir
        The run directory that a capture or a training run wrote.
    ranks
        Ranks of the energy table; by default m/64 to m/2 of the median layer.
    rank
        Rank of the angles and the curvature; by default a quarter of the median m.
    lags
        Ages of stale bases, in captures.
    top
        How many singular values of the curvature tangent.
    workers
        Layers worked on at once, by default one per core.
    """
    from subspace_lab.runs import Run

    run = Run.open(run_dir, write=True)
    _analyze(run, ranks=ranks, rank=rank, lags=lags, top=top, workers=workers)
    _conclude(run)


@app.command
def report(run_dir: RunDir, /) -> None:
    """Draw the figures and write report.html again, from the tables of an analysed run.

    Parameters
    ----------
    run_dir
        The run directory.
    """
    from subspace_lab.runs import Run

    run = Run.open(run_dir, write=True)
    run.table("energy")  # a run that was not analysed is refused before anything is drawn
    _report(run)


@app.command
def verify(run_dir: RunDir, /) -> None:
    """Check every snapshot of a run against its checksum.

    Parameters
    ----------
    run_dir
        The run directory.
    """
    from subspace_lab.runs import Run

    run = Run.open(run_dir)
    print(f"{run_dir}: {run.verify()} snapshots, all of them sound")


@app.command
def recommend(run_dir: RunDir, /) -> None:
    """Print a rank and a refresh interval for every layer, with the numbers they rest on, and save plan.json.

    Parameters
    ----------
    run_dir
        The run directory.
    """
    from rich.console import Console
    from rich.table import Table

    from subspace_lab.analysis import recommend as plan_of
    from subspace_lab.runs import Run

    plan = plan_of(Run.open(run_dir, write=True))
    table = Table("layer", "rank", "energy", "noise", "interval", "kept", title=f"from {plan.steps} captured steps")
    for layer in plan.layers:
        interval = "unknown" if layer.update_interval is None else f"{layer.bound} {layer.update_interval}".strip()
        kept = "" if layer.retained is None else f"{layer.retained:.0%}"
        table.add_row(layer.layer, str(layer.rank), f"{layer.fraction:.0%}", f"{layer.null_noise:.0%}", interval, kept)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    print("energy: share of the gradient's energy that the rank holds; noise: what it would hold of noise;")
    print("interval: steps for which a stale basis keeps half of what it held above r/m; kept: what it keeps then")
    path = run_dir / "plan.json"
    plan.save(path)
    print(f"saved {path}")


@app.command
def demo(run_dir: RunDir = Path("runs/demo"), /, *, steps: int = 200) -> None:
    """Train a small LLaMA on the source text of Python's standard library, analyse its gradients, write the report.

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

    config = TrainConfig(steps=steps, every=10, eval_every=50)
    there = (run_dir / MANIFEST).exists()
    if there:
        _check_same_demo(run_dir, config)
    if not (there and Run.open(run_dir).manifest.get("finished")):
        start(run_dir, config, resume=there)
    run = Run.open(run_dir, write=True)
    _analyze(run)
    _conclude(run, most=3)


def _check_same_demo(run_dir: Path, config: TrainConfig) -> None:
    from subspace_lab.runs import RunError
    from subspace_lab.training import stored_config

    try:
        config.matched(stored_config(run_dir))
    except ValueError as error:
        raise RunError(f"{run_dir} holds another run ({error}); choose another directory for this one") from error


def _analyze(run: Run, *, workers: int | None = None, **arguments: Any) -> None:
    """All tables, with one layer per core and one thread per layer: small eigenproblems do not thread well."""
    from concurrent.futures import ThreadPoolExecutor

    import torch

    from subspace_lab.analysis import analyze as measure
    from subspace_lab.analysis.arguments import check_positive

    num_workers = check_positive("workers", (os.cpu_count() or 1) if workers is None else workers)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(num_workers) as executor:
            measure(run, executor=executor, **arguments)
    finally:
        torch.set_num_threads(threads)


def _conclude(run: Run, most: int | None = None) -> None:
    from subspace_lab.analysis import findings

    for finding in findings(run)[:most]:
        print(f"\n{finding.title}\n  {finding.text}")
    print()
    _report(run)


def _report(run: Run) -> None:
    from subspace_lab.figures import draw_all
    from subspace_lab.report import write_report

    figures = draw_all(run)
    print(f"{len(figures)} figure files in {run.path / 'figures'}")
    print(f"report: {write_report(run)}")


def main() -> None:
    """The console script: bad input is one line on stderr and a non-zero exit, never a traceback.

    Set SUBSPACE_LAB_TRACEBACK=1 to see where an error came from.

    Raises:
        SystemExit: With status 2 after an error, 130 after Ctrl-C.
    """
    warnings.formatwarning = lambda message, *_, **__: f"note: {message}\n"
    try:
        app(sys.argv[1:], exit_on_error=False, print_error=False)
    except KeyboardInterrupt as interrupt:
        print(str(interrupt) or "interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except Exception as error:
        if os.environ.get("SUBSPACE_LAB_TRACEBACK") or not _expected(error):
            raise
        print("error:", *str(error).splitlines(), file=sys.stderr)
        raise SystemExit(2) from None


def _expected(error: Exception) -> bool:
    from subspace_lab.runs import RunError

    return isinstance(error, RunError | ValueError | OSError | CycloptsError | ModuleNotFoundError)
