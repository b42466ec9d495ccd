"""``subspace-lab memory``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from subspace_lab.cli.console import output, show
from subspace_lab.training.config import DEFAULT_PRESET

if TYPE_CHECKING:
    from rich.table import Table

    from subspace_lab.optim import MemoryReport


def memory(
    *,
    preset: str = DEFAULT_PRESET,
    rank: int | None = None,
    chosen: Annotated[
        tuple[str, ...] | None, Parameter("--methods", consume_multiple=True, negative_iterable=())
    ] = None,
    weights_dtype: Literal["float32", "bfloat16"] = "float32",
    state_dtype: Literal["float32", "bfloat16"] | None = None,
) -> None:
    """Print the bytes that training a preset takes with each optimizer, beside AdamW; nothing is built.

    Parameters
    ----------
    preset
        A LLaMA size.
    rank
        Rank of the matrices of attention and MLP; by default the published one, else a quarter of the width.
    chosen
        Optimizers to compare with AdamW; all of them by default.
    weights_dtype
        Of weights and gradients.
    state_dtype
        Of bases and low-rank moments; float32 by default. AdamW, here as in torch, keeps the weights' dtype.
    """
    import torch

    from subspace_lab.optim import METHODS, BAdam, memory_report, method_named
    from subspace_lab.training import parameter_shapes, preset as preset_named

    size, dtype = preset_named(preset), getattr(torch, weights_dtype)
    adamw, *others = METHODS.values()
    kinds = dict.fromkeys([adamw, *(others if chosen is None else map(method_named, _named(chosen)))])
    ranked = [kind for kind in kinds if kind not in {adamw, BAdam}]
    _check_effect([kind.__name__ for kind in kinds], bool(ranked), rank, state_dtype)
    shapes, used = parameter_shapes(size), size.usual_rank if rank is None else rank
    states: dict[str, Any] = {"state_dtype": state_dtype} if state_dtype else {}
    reports = [
        memory_report(shapes, kind, rank=used, dtype=dtype, **({} if kind is adamw else states)) for kind in kinds
    ]
    first, origin = reports[0], ""
    if rank is None:
        origin = " (published)" if size.rank else " (a quarter of the width)"
    print(f"{preset}: {first.weights // dtype.itemsize:,} parameters in {weights_dtype}")
    if used > size.hidden_size:
        origin = f" ({size.hidden_size} at most)"
    if ranked:
        print(f"rank {used}{origin} for attention and MLP; embeddings, head, norms full-rank")
    print(f"weights {first.weights:,} bytes, gradients {first.gradients:,} bytes\n")
    show(_memory_table(reports, wide=output().width >= 100))
    print("\nstates: moments and the like; bases: of the subspaces; both stay between steps")
    print("refresh: held for a moment while the largest matrix gets its new subspace")
    print("total: all of these, weights and gradients; activations are not counted")


def _named(chosen: tuple[str, ...]) -> tuple[str, ...]:
    if not chosen:
        raise ValueError("--methods names no optimizer; leave it out for all of them")
    return chosen


def _check_effect(names: list[str], ranked: bool, rank: int | None, state_dtype: str | None) -> None:
    """Refuse settings that none of the optimizers has a use for."""
    if rank is not None and not ranked:
        raise ValueError(f"--rank {rank} has no effect on {' and '.join(names)}; leave it out")
    if state_dtype and names == ["AdamW"]:
        raise ValueError(f"--state-dtype {state_dtype} has no effect on AdamW, which keeps the weights'; leave it out")


def _memory_table(reports: list[MemoryReport], *, wide: bool) -> Table:
    """Exact bytes, one row per method; where there is room with the totals in other words."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("bytes", no_wrap=True)
    for name in ("states", "bases", "refresh", "total", *(("total, GB", "of AdamW's") if wide else ())):
        table.add_column(name, justify="right", no_wrap=True)
    for report in reports:
        exact = (report.states, report.bases, report.refresh_workspace, report.total)
        share = (f"{report.total / 1e9:.3f}", f"{report.total / reports[0].total:.0%}") if wide else ()
        table.add_row(report.method, *(f"{number:,}" for number in exact), *share)
    return table
