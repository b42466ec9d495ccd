"""``subspace-lab memory --sharding``: the tables."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from subspace_lab.cli.console import output, show

if TYPE_CHECKING:
    from rich.table import Table

    from subspace_lab.optim import MemoryReport, ShardingReport

    Reports = Sequence[Sequence[ShardingReport]]  # of every method, the same shardings


_SCOPES = {"N": "whole", "I": "node", "G": "all"}


def show_shardings(reports: Reports) -> None:
    """Print what all methods have alike, what each adds, and the totals.

    Args:
        reports: Of every method, and side where there are several, the same shardings.
    """
    from subspace_lab.optim.sharding_report import WORTH

    print("three letters: parameters, gradients, states; N whole, I over a node's processes, G over all (PaRO)")
    print("bytes of a device, and bytes that it receives in a step from its node (within) and from others (between)\n")
    show(_alike(reports[0]))
    print("\nof each optimizer: bytes of its states, what its own exchange adds to a step, and to one that refreshes\n")
    show(_states(reports))
    seconds = ", seconds of communication in a step, nothing overlapped" if reports[0][0].seconds is not None else ""
    print(f"\ntotal of a device, GB{seconds}")
    for some in _beside(reports):
        print()
        show(_totals(some))
    print()
    for line in _larger_than_adamw(reports):
        print(line)
    if any(row.pays is False for rows in reports for row in rows):
        print(f"*: sharding the states saves less than {WORTH:.0%} of the device's bytes: it does not pay")
    print("checked: a formula that the tests compare with small models on four real processes; formula: not compared")
    print("not counted: activations, the layer that is gathered at the moment, scalars")


def print_json(reports: Iterable[MemoryReport | ShardingReport]) -> None:
    """Print reports as JSON, a list of them, with what follows from their numbers.

    Args:
        reports: Of one kind.
    """
    print(json.dumps([{**dataclasses.asdict(report), **_derived(report)} for report in reports], indent=1))


def _derived(report: MemoryReport | ShardingReport) -> dict[str, object]:
    """The properties of a report."""
    kind = type(report)
    return {name: getattr(report, name) for name in vars(kind) if isinstance(getattr(kind, name), property)}


def _alike(rows: Sequence[ShardingReport]) -> Table:
    """Parameters and gradients, which are the same under every optimizer, and how to get them."""
    table = _table("", "parameters", "gradients", "within", "between")
    table.add_column("source", no_wrap=True)
    table.add_column("setting of torch, or why not", overflow="fold")
    for row in rows:
        numbers = (row.parameters, row.gradients, row.moved.within, row.moved.between)
        source = "excluded" if row.excluded else "checked" if row.torch else "formula"
        table.add_row(
            row.sharding, *(f"{number:,.0f}" for number in numbers), source, row.excluded or row.torch or "none"
        )
    return _uncut(table)


def _states(reports: Reports) -> Table:
    """States and their exchange, which depend on the last letter only, unless whole parameters are dealt out."""
    table = _table("", "states", "within", "between", "refresh +within", "+between")
    table.add_column("over", no_wrap=True)
    table.add_column("source", no_wrap=True)
    for rows in reports:
        alike: dict[tuple[object, ...], list[ShardingReport]] = {}
        for row in sorted(rows, key=lambda row: "NIG".index(row.sharding[2])):
            alike.setdefault((row.sharding[2], row.states, row.exchanged, row.refresh), []).append(row)
        for (scope, *_), found in alike.items():
            one, dealt = found[0], len(found) == 1 and found[0].sharding in {"NNI", "NNG"}
            if one.side == "sharded" and (scope == "N" or dealt):
                continue  # as with any other side
            numbers = (
                one.states, one.exchanged.within, one.exchanged.between, one.refresh.within, one.refresh.between,
            )  # fmt: skip
            over = _SCOPES[str(scope)] + (f" ({one.sharding})" if dealt else "")
            source = "checked" if any(row.source == "checked" for row in found) else "formula"
            table.add_row(_name(one), *(f"{number:,.0f}" for number in numbers), over, source)
    return _uncut(table)


def _totals(reports: Reports) -> Table:
    table = _table("", *(_name(rows[0]) for rows in reports))
    table.padding = (0, 2, 0, 0)
    for rows in zip(*reports, strict=True):
        table.add_row(rows[0].sharding, *map(_total, rows), style="dim" if rows[0].excluded else None)
    return _uncut(table)


def _total(row: ShardingReport) -> str:
    seconds = "" if row.seconds is None else f", {row.seconds:.3g}"
    return f"{row.total / 1e9:.4g}{seconds}{'*' if row.pays is False else ' '}"


def _larger_than_adamw(reports: Reports) -> Iterator[str]:
    """Of methods whose states are larger than AdamW's where both are sharded over all processes."""
    most = min((row.states for row in reports[0] if row.sharding[2] == "G"), default=None)
    for rows in reports[1:]:
        least = min((row.states for row in rows if row.sharding[2] == "G"), default=None)
        if most is not None and least is not None and least > most:
            pair = f"{least / 1e9:.4g} GB, AdamW's {most / 1e9:.4g}"
            yield f"{_name(rows[0])}: over all, its states are {pair}: bases are whole where the other side is cut"


def _beside(reports: Reports) -> Iterator[Reports]:
    """As many methods at a time as fit beside each other."""
    room, some = 0, list[Sequence["ShardingReport"]]()
    for rows in reports:
        width = 2 + max(len(_name(rows[0])), *(len(_total(row)) for row in rows))
        if some and room + width > output().width:
            yield some
            room, some = 0, []
        room, some = (room or 4) + width, [*some, rows]
    yield some


def _uncut(table: Table) -> Table:
    """No cell or heading of a column that does not wrap is cut, spaces or not."""
    for column in table.columns:
        if column.no_wrap:
            column.min_width = max(len(str(cell)) for cell in (column.header, *column.cells))
    return table


def _table(first: str, *numbers: str) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(first, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _name(row: ShardingReport) -> str:
    return f"{row.method}, side sharded" if row.side == "sharded" else row.method
