"""The table of a comparison for a terminal and in LaTeX, with its legend and its warnings."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd
from rich.table import Table
from rich.text import Text

from subspace_lab._text import count

EDGE = "*"
_WIDE = ("formula [MB]", "train", "gap")  # columns for which 80 characters have no room


def number(value: float, digits: int) -> str:
    """A number with so many decimals, a dash for none."""
    return "-" if pd.isna(value) else f"{value:.{digits}f}"


def with_spread(mean: float, spread: float, digits: int = 3) -> str:
    """A mean with the standard deviation beside it, where there is one."""
    return number(mean, digits) + ("" if pd.isna(spread) else f" ± {spread:.{digits}f}")


def rows_of(table: pd.DataFrame) -> pd.DataFrame:
    """The table of `summary` as text, one column per heading; headings have their unit in brackets."""
    rows = table.to_dict("records")
    texts = {
        "method": table["method"],
        "lr": [_rate(row, apart=_is_apart(table)) for row in rows],
        "held-out": [with_spread(row["eval_loss"], row["eval_sd"]) for row in rows],
        "state [MB]": [number(value / 1e6, 2) for value in table["state_bytes"]],
        "formula [MB]": [number(value / 1e6, 2) for value in table["state_bytes_formula"]],
        "peak [MB]": [number(value / 1e6, 0) for value in table["peak_bytes"]],
        "step [ms]": [number(value * 1e3, 1) for value in table["step_s"]],
        "refresh [%]": [number(value * 100, 1) for value in table["refresh_share"]],
        "tokens [k]": [number(value / 1e3, 0 if value >= 1e4 else 1) for value in table["tokens"]],
        "train": [with_spread(row["train_loss"], row["train_sd"]) for row in rows],
        "gap": ["-", *(_gap(row) for row in rows[1:])],
    }
    return pd.DataFrame(texts)


def _is_apart(table: pd.DataFrame) -> bool:
    """Whether a method has a rate of its own for what has no rank."""
    return "lr_rest" in table and bool((table["lr_rest"] != table["lr"]).any())


def _rate(row: Mapping[Hashable, Any], *, apart: bool) -> str:
    if not row["seeds"]:
        return "-"
    rest = f"/{row['lr_rest']:g}" if apart else ""
    return f"{row['lr']:g}{rest}{EDGE if _is_at_edge(row) else ''}"


def _is_at_edge(row: Mapping[Hashable, Any]) -> bool:
    """Whether a rate is at an end of what was tried; a single rate of the rest may have been said or inherited."""
    return bool(row["edge"]) or row.get("edge_rest", "") in {"low", "high"}


def _gap(row: Mapping[Hashable, Any]) -> str:
    ends = "" if pd.isna(row["gap_low"]) else f" [{row['gap_low']:+.3f}, {row['gap_high']:+.3f}]"
    return "-" if pd.isna(row["gap"]) else f"{row['gap']:+.3f}{ends}"


def terminal_table(table: pd.DataFrame, *, wide: bool) -> Table:
    """The table for a terminal; `wide` (from 110 characters on) adds the formula, the training loss and the gap."""
    texts = rows_of(table)
    names = [name for name in texts.columns if wide or name not in _WIDE]
    shown = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for name in names:
        heading, _, unit = name.partition(" [")
        left = name == "method"
        shown.add_column(
            Text(f"{heading}\n{unit.rstrip(']')}"), justify="left" if left else "right", no_wrap=not left,
            overflow="fold",
        )  # fmt: skip
    for row in texts[names].itertuples(index=False):
        shown.add_row(*(Text(value) for value in row))
    return shown


def latex_table(table: pd.DataFrame) -> str:
    """The table in LaTeX (booktabs), with the legend in comments; nothing is bold, since gaps compare the methods."""
    texts = rows_of(table)
    texts.columns = [name.replace("[", "(").replace("]", ")") for name in texts.columns]
    body = texts.to_latex(index=False, escape=True, column_format="l" + "r" * (len(texts.columns) - 1))
    body = body.replace("±", r"$\pm$")
    return "".join(f"% {line}\n" for line in legend(table)) + body


def legend(table: pd.DataFrame) -> list[str]:
    """What must be said beside the table, in lines of at most 80 characters."""
    seeds = sorted(set(table["seeds"]))
    over = count(seeds[0], "seed") if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds"
    if seeds == [0]:
        return ["no trial is complete, so that there is nothing to compare"]
    lines = ["lr: of the matrices / of embeddings, head and norms"] if _is_apart(table) else []
    lines += [
        f"held-out: loss at each method's best learning rate, mean ± sd over {over}",
        f"state: the optimizer's tensors{_beside_formula(table)}",
        f"peak: {_measured_of(table)}",
        "step: median; refresh: share of the time that goes into subspaces",
    ]
    if any(row["seeds"] > 0 and _is_at_edge(row) for row in table.to_dict("records")):
        lines.append(f"{EDGE} at the end of its grid: a better learning rate may lie beyond")
    return lines


def _beside_formula(table: pd.DataFrame) -> str:
    """How the measured state compares with the formula, where both are known."""
    known = table.dropna(subset=["state_bytes", "state_bytes_formula"])
    others = int((known["state_bytes"] != known["state_bytes_formula"]).sum())
    if others:
        return f"; those of {count(others, 'method')} differ from the formula"
    return ", equal to the formula to the byte" if len(known) else ""


def _measured_of(table: pd.DataFrame) -> str:
    """What the peak includes: without a GPU, the memory that the process had before the training."""
    bases = table.get("base_bytes", pd.Series(dtype="float64")).dropna()
    if bases.empty:
        return "of the process, libraries included"
    if bases.max() == 0:
        return "of the GPU's allocator; weights, gradients and activations are in it"
    return f"of the process, {bases.mean() / 1e6:.0f} MB of Python and libraries in it"


def verdicts(table: pd.DataFrame, results: pd.DataFrame) -> list[str]:
    """What the table does not show: methods that noise may set apart from the first, and trials without a result."""
    lines = []
    first, others = table.iloc[0], table.iloc[1:]
    alike = others[others["gap_low"] <= 0]["method"]
    if len(alike):
        lines.append(f"not distinguishable from {first['method']} (95 %, paired by seed, Holm): {', '.join(alike)}")
    if len(others) and table["seeds"].any() and table["gap_low"].iloc[1:].isna().any():
        lines.append("too few seeds to distinguish all methods")
    unfinished = results[results["status"] != "complete"]
    if unfinished["status"].isin(["diverged", "failed"]).any():
        lines.append("trials that diverged or failed are repeated with --retry (in Python retry=True)")
    for status, cell, reason in zip(unfinished["status"], unfinished["cell"], unfinished["reason"], strict=True):
        lines.append(f"{status}: {cell}" + (f" ({reason})" if reason else ""))
    return lines
