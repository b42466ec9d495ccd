"""``subspace-lab recommend``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from subspace_lab.cli.compare import tell
from subspace_lab.cli.console import show
from subspace_lab.cli.parameters import STUDIED_HERE, RunDir, Size, StudyOptions, refuse_useless

if TYPE_CHECKING:
    from subspace_lab.analysis import LayerPlan

_SEEDS = 5
_WIDTH = 80
_SIGNS = {"": "", "at most": "≤", "at least": "≥", "only": "only"}
_SETTINGS = ("rank", "interval", "rule", "step", "recovery")
_EVIDENCE = ("energy", "noise", "kept", "bulk", "signal", "MB")
_ERRORS = ("rank", "interval", "step", "kept")
_LEGEND = """\
rank: holds 90% of the largest measured signal, or what a budget leaves; energy,
      noise: share of the gradient's energy that it holds, and of noise's
interval: steps for which a stale basis keeps half of the signal that a fresh
      one of another batch holds, at most the oldest measured age
rule: walk where it does, by the angle (step, radians) that the gradient turned
      in that time; jump (whenever) where it never does, or all is noise;
      of fast bases (trig_walk, trig) step is how many cosines are swapped
recovery: scaled where the bulk, outside of the rank, holds a tenth or more,
      with a signal in it where analyze --noise has measured that
kept: what a basis keeps after the interval; MB: optimizer state, float32
standard errors: over the captured steps; none of a bound or a budget's rank
≤, ≥: the answer may lie beyond what was measured"""


def recommend(
    run_dir: RunDir,
    /,
    *,
    budget: Size | None = None,
    fast: bool = False,
    check: bool = False,
    seeds: int = _SEEDS,
    steps: int | None = None,
    execution: StudyOptions = STUDIED_HERE,
    data: str | None = None,
    model: str | None = None,
    tokenizer: str | None = None,
) -> None:
    """Print optimizer settings for every layer, with the numbers they rest on, and save plan.json.

    Parameters
    ----------
    run_dir
        The run directory.
    budget
        What the optimizer states of these layers may take: 2GB, 500MB, 1.5GiB. Rank goes where energy above noise pays.
    fast
        Take bases of random cosines, which cost no memory and no products, in the place of walks and jumps.
    check
        Train by the plan, by the default at equal state and by AdamW, each tuned by itself, and compare them:
        RUN_DIR/check/comparison.
    seeds
        With --check: how many evaluation seeds, from 0 on.
    steps
        With --check: steps of each training, instead of the run's.
    execution.executor
        With --check: processes of this machine, or Slurm job arrays.
    execution.workers
        With --check: trainings at a time; by default one per core, or as many as Slurm gives.
    execution.slurm
        With --check: options of Slurm: --slurm.partition gpu --slurm.time 60.
    execution.processes
        With --check: processes that share a training, begun by torchrun, here one training after the other.
    execution.sharding
        With --check: how they share it: ddp (the default) or fsdp.
    data
        With --check: where the run's data are now, where they are not found any more.
    model
        With --check: where its pretrained model is now.
    tokenizer
        With --check: where its tokenizer is now.
    """
    from subspace_lab._text import count
    from subspace_lab.analysis import recommend as plan_of
    from subspace_lab.runs import Run
    from subspace_lab.runs.errors import in_shell

    how = execution.arguments()
    if not check:
        given = {"steps": steps, "data": data, "model": model, "tokenizer": tokenizer, **how}
        changed = {name: value is not None for name, value in given.items()}
        changed |= {"seeds": seeds != _SEEDS, "executor": execution.executor != STUDIED_HERE.executor}
        refuse_useless("--check", changed)
    run = Run.open(run_dir, write=True)
    plan = plan_of(run, budget, fast=fast)
    path = run_dir / "plan.json"
    plan.save(path)
    bases = " of fast bases" if fast else ""
    _show(
        f"settings{bases}, from {count(plan.steps, 'captured step')}",
        _SETTINGS,
        [_settings(row) for row in plan.layers],
    )
    print()
    _show("what they rest on", _EVIDENCE, [_evidence(row) for row in plan.layers])
    print()
    _show("standard errors of these", _ERRORS, [_errors(row) for row in plan.layers])
    print()
    print(_LEGEND)
    if noisy := sum(not row.above_noise for row in plan.layers):
        print(f"note: above noise at no rank: {noisy} of {count(len(plan.layers), 'layer')}; of these the smallest")
        print("measured rank is given, which rests on nothing")
    within = "" if plan.budget_bytes is None else f", of a budget of {_megabytes(plan.budget_bytes)} MB"
    print(f"states of these layers: {_megabytes(plan.state_bytes)} MB{within}; others are AdamW's")
    use = f"use it: sl.optim.from_plan(model, {str(path)!r}, lr=...)"
    print(use if len(use) <= _WIDTH else "use it: sl.optim.from_plan(model, PLAN, lr=...), PLAN the path that follows")
    print(f"saved {in_shell(path)}")
    if check:
        from subspace_lab.studies.optimizers import compare
        from subspace_lab.studies.plans.validate_plan import gap_to, validation

        print()
        wanted = validation(run, plan, steps=steps, data=data, model=model, tokenizer=tokenizer)
        config = replace(wanted.config, sharding=how.pop("sharding"))
        found = compare(wanted.path, wanted.methods, protocol="tuned", seeds=seeds, config=config, **how)
        tell(found)
        print(_verdict(**gap_to(found.results)))


def _verdict(gap: float, gap_low: float, gap_high: float) -> str:
    if math.isnan(gap):
        return "\nplan - default: not known, no seed was completed by both at their best settings"
    if math.isnan(gap_low):
        return f"\nplan - default: {gap:+.4f}, of a single seed; give more --seeds for an interval"
    says = "the plan is better" if gap_high < 0 else "the default is better" if gap_low > 0 else "not distinguishable"
    return f"\nplan - default: {gap:+.4f} [{gap_low:+.4f}, {gap_high:+.4f}] (95 %, paired by seed): {says}"


def _show(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    from subspace_lab.runs.errors import printable

    table = Table(title=title, box=None, padding=(0, 2, 0, 0), pad_edge=False, title_justify="left")
    table.add_column("layer", overflow="fold")
    for name in columns:
        table.add_column(name, no_wrap=True)
    for layer, *cells in rows:
        table.add_row(Text(printable(layer)), *cells)
    show(table)


def _settings(row: LayerPlan) -> tuple[str, ...]:
    known = f"{_SIGNS[row.bound]} {row.update_interval}".strip()
    interval = known if row.update_interval is not None else "any" if row.rule in {"jump", "trig"} else "unknown"
    step = "" if row.walk_step is None else f"{row.walk_step:.2f}"
    step = step if row.swaps is None else str(row.swaps)
    rule = {"trig_walk": "walk", "trig": "jump"}.get(row.rule, row.rule)
    return row.layer, f"{_SIGNS[row.rank_bound]} {row.rank}".strip(), interval, rule, step, row.recovery


def _evidence(row: LayerPlan) -> tuple[str, ...]:
    shares = (row.fraction, row.null_noise, row.retained, row.bulk, row.bulk_signal)
    return row.layer, *("" if share is None else _percent(share) for share in shares), _megabytes(row.state_bytes)


def _errors(row: LayerPlan) -> tuple[str, ...]:
    numbers = (row.rank_se, row.update_interval_se, row.walk_step_se)
    kept = "" if row.retained_se is None else _percent(row.retained_se)
    return row.layer, *("" if number is None else f"{number:.2g}" for number in numbers), kept


def _megabytes(number: int) -> str:
    return f"{number / 1e6:,.2f}"


def _percent(share: float) -> str:
    text = f"{share:.0%}"
    return text if text != "-0%" else "0%"
