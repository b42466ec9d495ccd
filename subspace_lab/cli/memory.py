"""``subspace-lab memory``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from subspace_lab.cli.console import output, show
from subspace_lab.cli.sharding import print_json, show_shardings
from subspace_lab.training.config import DEFAULT_PRESET

if TYPE_CHECKING:
    from rich.table import Table

    from subspace_lab.optim import MemoryReport

_NEEDED = {"world": "the number of processes", "per_node": "how many processes a node has"}


def memory(
    *,
    preset: str = DEFAULT_PRESET,
    rank: int | None = None,
    chosen: Annotated[
        tuple[str, ...] | None, Parameter("--methods", consume_multiple=True, negative_iterable=())
    ] = None,
    weights_dtype: Literal["float32", "bfloat16"] = "float32",
    state_dtype: Literal["float32", "bfloat16"] | None = None,
    sharding: Annotated[tuple[str, ...] | None, Parameter(consume_multiple=True, negative_iterable=())] = None,
    world: int | None = None,
    per_node: int | None = None,
    accumulation: int | None = None,
    intra: float | None = None,
    inter: float | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Print the bytes that training a preset takes with each optimizer, beside AdamW; nothing is built.

    With --sharding they are those of one device of many, and with them what it receives in a step.

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
    sharding
        "all", or combinations: a letter each for parameters, gradients and optimizer states, N for whole, I for over
        the processes of a node, G for over all; GGG is ZeRO-3, NNN is DDP.
    world
        Number of processes that train together.
    per_node
        How many of them a node has.
    accumulation
        Micro-batches of a step; 1 by default.
    intra
        Bandwidth of a device within its node, GB/s; gives seconds.
    inter
        Bandwidth of a device between nodes, GB/s: of the node's, divided by its devices.
    json
        Print JSON instead of tables.
    """
    import torch

    from subspace_lab.optim import METHODS, BAdam, memory_report, method_named, sharding_report
    from subspace_lab.training import parameter_shapes, preset as preset_named

    size, dtype = preset_named(preset), getattr(torch, weights_dtype)
    adamw, *others = METHODS.values()
    kinds = dict.fromkeys([adamw, *(others if chosen is None else map(method_named, _named(chosen)))])
    ranked = [kind for kind in kinds if kind not in {adamw, BAdam}]
    _check_effect([kind.__name__ for kind in kinds], bool(ranked), rank, state_dtype)
    shapes, used = parameter_shapes(size), size.usual_rank if rank is None else rank
    cluster = {"world": world, "per_node": per_node, "accumulation": accumulation, "intra": intra, "inter": inter}
    given: dict[str, Any] = {name: value for name, value in cluster.items() if value is not None}
    _check_cluster(sharding, given)
    settings: dict[Any, dict[str, Any]] = {kind: {"rank": used, "dtype": dtype} for kind in kinds}
    for kind in [*kinds] if state_dtype else ():
        settings[kind] |= {} if kind is adamw else {"state_dtype": state_dtype}
    if sharding is None:
        reports = [memory_report(shapes, kind, **settings[kind]) for kind in kinds]
    else:
        names = _one_or_several(sharding)
        shardings = [
            sharding_report(shapes, kind, sharding=names, side=side, **given, **settings[kind])
            for kind in kinds
            for side in (("auto", "sharded") if kind in ranked else ("auto",))
        ]
    if json:
        print_json(reports if sharding is None else [row for rows in shardings for row in rows])
        return
    numbers, origin = sum(map(math.prod, shapes.values())), ""
    if rank is None:
        origin = " (published)" if size.rank else " (a quarter of the width)"
    print(f"{preset}: {numbers:,} parameters in {weights_dtype}")
    if used > size.hidden_size:
        origin = f" ({size.hidden_size} at most)"
    if ranked:
        print(f"rank {used}{origin} for attention and MLP; embeddings, head, norms full-rank")
    if sharding is not None:
        print(f"{world} processes, {per_node} per node\n")
        show_shardings(shardings)
        return
    print(f"weights {reports[0].weights:,} bytes, gradients {reports[0].gradients:,} bytes\n")
    show(_memory_table(reports, wide=output().width >= 100))
    print("\nstates: moments and the like; bases: of the subspaces; both stay between steps")
    print("refresh: held for a moment while the largest matrix gets its new subspace")
    print("total: all of these, weights and gradients; activations are not counted")


def _check_cluster(sharding: tuple[str, ...] | None, given: Mapping[str, object]) -> None:
    """Refuse options of a sharding without one, and a sharding of nobody knows how many processes."""
    if sharding is None and given:
        name, value = next(iter(given.items()))
        option = f"{name.replace('_', '-')} {value}"
        raise ValueError(f"--{option} has no effect without --sharding; add --sharding all, or leave it out")
    missing = [name for name in ("world", "per_node") if name not in given]
    if sharding is not None and missing:
        option = missing[0].replace("_", "-")
        raise ValueError(f"--sharding needs --{option}: {_NEEDED[missing[0]]}")


def _one_or_several(names: tuple[str, ...]) -> str | tuple[str, ...]:
    return names[0] if len(names) == 1 else names


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
