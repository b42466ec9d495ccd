"""``subspace-lab compare``: parse, call, print."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from subspace_lab.cli.console import output, show
from subspace_lab.cli.parameters import TRAINED_HERE, OutDir, TrainingOptions
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
    lrs: Words = (),
    seeds: int | None = None,
    protocol: Literal["grid", "tuned"] = "grid",
    execution: TrainingOptions = TRAINED_HERE,
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
        Peak learning rates, separated by commas or spaces; with --protocol tuned the ladder of the search.
    seeds
        How many seeds, from 0 on; 3, or 5 with --protocol tuned.
    protocol
        grid: every rate with every seed; tuned: a search per method over both rates, beta2 and warm-up, then the seeds.
    execution
        How they are trained.
    retry
        Begin cells again that diverged or failed.
    """
    from subspace_lab.studies.optimizers import compare as start

    rates = [_number(word) for word in split(lrs)] or None
    found = start(
        out_dir, split(chosen), lrs=rates, seeds=seeds, protocol=protocol, config=config, retry=retry,
        **execution.arguments(),
    )  # fmt: skip
    tell(found)
    _fail_without_result(found)


def split(words: tuple[str, ...]) -> list[str]:
    """Words that were given one by one, or several of them with commas between."""
    return [part.strip() for word in words for part in word.split(",") if part.strip()]


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
