"""``subspace-lab compare``: parse, call, print."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from subspace_lab._text import plain_value
from subspace_lab.cli.console import output, show
from subspace_lab.cli.parameters import OutDir
from subspace_lab.cli.train import Config

if TYPE_CHECKING:
    from subspace_lab.studies.optimizers import Comparison

_WIDE = 110
Words = Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative_iterable=())]


def compare(
    out_dir: OutDir,
    /,
    config: Config | None = None,
    *,
    chosen: Annotated[Words, Parameter("--methods")],
    lrs: Words,
    seeds: int = 3,
    executor: Literal["local", "slurm"] = "local",
    workers: int | None = None,
    slurm: dict[str, str] | None = None,
    retry: bool = False,
) -> None:
    """Train optimizers side by side, each at every learning rate with every seed, and compare them.

    The same command goes on where it was cut; with more methods, learning rates or seeds it adds them.

    Parameters
    ----------
    out_dir
        Where the comparison goes: tables, figures, report, and the run directories of all cells.
    config
        Settings that all cells have in common.
    chosen
        Optimizers, separated by commas or spaces; settings of one follow after colons: grasswalk:rank=16.
    lrs
        Peak learning rates, separated by commas or spaces.
    seeds
        How many seeds, from 0 on.
    executor
        Processes of this machine, or a Slurm job array.
    workers
        Cells trained at a time; by default one per core, or as many as Slurm gives.
    slurm
        Options of Slurm: --slurm.partition gpu --slurm.time 60.
    retry
        Begin cells again that diverged or failed.
    """
    from subspace_lab.studies.optimizers import compare as start

    rates = [_number(word) for word in split(lrs)]
    found = start(
        out_dir, split(chosen), lrs=rates, seeds=seeds, config=config, executor=executor, workers=workers,
        slurm=slurm_options(slurm), retry=retry,
    )  # fmt: skip
    tell(found)
    _fail_without_result(found)


def split(words: tuple[str, ...]) -> list[str]:
    """Words that were given one by one, or several of them with commas between."""
    return [part.strip() for word in words for part in word.split(",") if part.strip()]


def slurm_options(given: dict[str, str] | None) -> dict[str, Any] | None:
    """Options of Slurm as values."""
    return {name: plain_value(value) for name, value in (given or {}).items()} or None


def _fail_without_result(found: Comparison) -> None:
    if not (found.results["status"] == "complete").any():
        raise SystemExit(1)


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise ValueError(f"lrs must be positive numbers, got {word!r}") from None


def tell(found: Comparison) -> None:
    """Print what came out of a comparison."""
    from subspace_lab.experiments.present import legend, terminal_table, verdicts

    show(terminal_table(found.table, wide=output().width >= _WIDE))
    print()
    for line in [*legend(found.table), *verdicts(found.table, found.results)]:
        print(line)
    print(f"\ntables: {found.path / 'results.parquet'}, table.csv, table.tex\nreport: {found.path / 'report.html'}")
