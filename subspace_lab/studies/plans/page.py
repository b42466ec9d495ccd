"""The tables of ``docs/how-to/let-measurements-choose.md`` from ``results/plans/plans.json``.

Run it at the root of the repository: ``python -m subspace_lab.studies.plans.page``
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from subspace_lab.report.pages import fill_from, markdown_table
from subspace_lab.studies.plans.study import INTERVAL, RESULT

PAGE, MARK = Path("docs", "how-to", "let-measurements-choose.md"), "plans"
SETTINGS = {
    "free": "no budget, the ranks that `analyze` measures by itself (2, 4, ..., 64)",
    "tight": "three quarters of the bytes that a plan without budget takes, ranks 1, 2, 3, 4, 6, 8, 12, 16",
}
ROWS = {
    "plan": "plan",
    "default": "GrassWalk, one rank, its defaults",
    "usual": f"GrassWalk, one rank, refreshed every {INTERVAL}",
    "less": "GrassWalk, the next lower rank, its defaults",
    "adamw": "AdamW",
}


def verdict(gap: dict[str, float]) -> str:
    """The verdict on the gap of plan minus another method."""
    if gap["gap_high"] < 0:
        return "the plan is better"
    return "the plan is worse" if gap["gap_low"] > 0 else "not distinguishable"


def render(result: dict[str, Any]) -> str:
    """The tables of the page, from the content of the JSON file."""
    lines = []
    headings = ["method", "state of the planned layers, kB", "best rate", "held-out loss", "plan minus this one", ""]
    for setting, of_setting in result["settings"].items():
        others = _bytes_of_others(of_setting)
        rows = []
        for row in of_setting["methods"]:
            edge = f" ({row['edge']} end)" if row["edge"] else ""
            gap, state = of_setting["gaps"].get(row["method"]), f"{(row['state_bytes'] - others) / 1e3:,.0f}"
            rows.append([ROWS[row["method"]], state, f"{row['lr']:g}{edge}", f"{row['eval_loss']:.3f}", "", ""])
            if gap is not None:
                difference = f"{gap['gap']:+.3f} [{gap['gap_low']:+.3f}, {gap['gap_high']:+.3f}]"
                rows[-1][-2:] = [difference, verdict(gap)]
        title = f"{SETTINGS[setting][0].upper()}{SETTINGS[setting][1:]}:"
        lines += [title, "", *markdown_table(headings, rows), ""]
    return "\n".join(lines)


def _bytes_of_others(of_setting: dict[str, Any]) -> float:
    """The state of embeddings, head and norms, the same for all methods."""
    whole = next(row["state_bytes"] for row in of_setting["methods"] if row["method"] == "plan")
    return float(whole - sum(layer["state_bytes"] for layer in of_setting["plan"]["layers"]))


def main() -> None:
    """Fill the page."""
    fill_from(RESULT, PAGE, MARK, render)


if __name__ == "__main__":
    main()
