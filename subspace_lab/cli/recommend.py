"""``subspace-lab recommend``."""

from __future__ import annotations

from subspace_lab.cli.console import show
from subspace_lab.cli.parameters import RunDir

_SIGNS = {"": "", "at most": "≤", "at least": "≥", "only": "only"}


def recommend(run_dir: RunDir, /) -> None:
    """Print a rank and a refresh interval for every layer, with the numbers they rest on, and save plan.json.

    Parameters
    ----------
    run_dir
        The run directory.
    """
    from rich.table import Table
    from rich.text import Text

    from subspace_lab.analysis import recommend as plan_of
    from subspace_lab.analysis.words import count
    from subspace_lab.runs import Run

    plan = plan_of(Run.open(run_dir, write=True))
    path = run_dir / "plan.json"
    plan.save(path)
    table = Table(title=f"from {count(plan.steps, 'captured step')}", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("layer", overflow="fold")
    for name in ("rank", "energy", "noise", "interval", "kept"):
        table.add_column(name, no_wrap=True)
    for row in plan.layers:
        interval = "unknown" if row.update_interval is None else f"{_SIGNS[row.bound]} {row.update_interval}".strip()
        shares = ("" if share is None else _percent(share) for share in (row.fraction, row.null_noise, row.retained))
        energy, noise, kept = shares
        table.add_row(Text(row.layer), f"{_SIGNS[row.rank_bound]} {row.rank}".strip(), energy, noise, interval, kept)
    show(table)
    print()
    print("rank: the smallest measured one with 90% of the largest energy above noise")
    print("energy, noise: share of the gradient's energy that it holds, and of noise's")
    print("interval: steps for which a stale basis keeps half of what it held above r/m")
    print("kept: what it keeps then; ≤, ≥: the answer may lie beyond what was measured")
    if noisy := sum(not row.above_noise for row in plan.layers):
        print(f"note: at no rank told from noise: {noisy} of {count(len(plan.layers), 'layer')}; of these the smallest")
        print("measured rank is given, which rests on nothing")
    print(f"saved {path}")


def _percent(share: float) -> str:
    text = f"{share:.0%}"
    return text if text != "-0%" else "0%"
