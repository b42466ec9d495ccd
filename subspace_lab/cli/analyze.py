"""``subspace-lab analyze``, ``report`` and ``verify``: from a captured run to its tables, figures and report."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from subspace_lab.cli.parameters import HERE, ExecutorOptions, RunDir, refuse_useless
from subspace_lab.cli.steps import conclude, draw, measure, measure_hessian


def analyze(
    run_dir: RunDir,
    /,
    *,
    ranks: Annotated[tuple[int, ...] | None, Parameter(consume_multiple=True, negative_iterable=())] = None,
    rank: int | None = None,
    lags: Annotated[tuple[int, ...], Parameter(consume_multiple=True)] = (1, 2, 4, 8, 16),
    top: int = 20,
    execution: ExecutorOptions = HERE,
    hessian: Annotated[bool, Parameter(negative=())] = False,
    noise: Annotated[bool, Parameter(negative=())] = False,
    hessian_layers: Annotated[tuple[str, ...] | None, Parameter(consume_multiple=True, negative_iterable=())] = None,
    eigenvalues: int = 5,
    sequences: int = 4,
    data: str | None = None,
    model: str | None = None,
    tokenizer: str | None = None,
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
    execution
        Where chains of layers are worked on.
    hessian
        Measure the Hessian of the loss at the run's checkpoints as well; it takes minutes per checkpoint.
    noise
        Measure signal and noise of the gradient at the run's checkpoints as well.
    hessian_layers
        Globs on the layers of --hessian; by default all of up to 24, otherwise those of the first, the middle and the
        last block.
    eigenvalues
        Eigenvalues of --hessian per layer.
    sequences
        Sequences of text that --hessian takes the loss of.
    data
        With --hessian or --noise: where the run's data are now, where they are not found any more.
    model
        With --hessian or --noise: where its pretrained model is now.
    tokenizer
        With --hessian or --noise: where its tokenizer is now.
    """
    from subspace_lab.analysis import noise_of_run
    from subspace_lab.runs import Run
    from subspace_lab.training import RestoredCheckpoints

    places = {"data": data, "model": model, "tokenizer": tokenizer}
    if not (hessian or noise):
        refuse_useless("--hessian and --noise", {name: place is not None for name, place in places.items()})
    run = Run.open(run_dir, write=True)
    checkpoints = RestoredCheckpoints.of(run, **places) if hessian or noise else None  # before anything long is begun
    measure(run, ranks=ranks, rank=rank, lags=lags, top=top, **execution.arguments())
    if checkpoints and hessian:
        measure_hessian(run, checkpoints, layers=hessian_layers, k=eigenvalues, sequences=sequences, rank=rank)
    if checkpoints and noise:
        noise_of_run(run, checkpoints, rank=rank)
    conclude(run)


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
    print(draw(run))


def verify(run_dir: RunDir, /) -> None:
    """Check every snapshot of a run against its checksum.

    Parameters
    ----------
    run_dir
        The run directory.
    """
    from subspace_lab._text import count
    from subspace_lab.runs import Run

    run = Run.open(run_dir)
    number = run.verify()
    verdict = {0: "nothing to check", 1: "it is sound"}.get(number, "all of them sound")
    print(f"{run_dir}: {count(number, 'snapshot')}, {verdict}")
