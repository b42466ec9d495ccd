"""Overviews of methods: intervals are drawn whole, and what lies far above the others is named, not drawn."""

import pandas as pd
import pytest

from subspace_lab.figures.style import Layout
from subspace_lab.studies.grass_paper.quantities.methods_overview import every_method, pareto

LOSSES = {"apollo": (3.95, 0.02), "galore": (4.09, 0.09), "adamw": (4.10, 0.05), "fira": (4.07, 0.06)}
FAR = {"badam": (5.40, 0.80)}


def table(losses):
    rows = [
        {
            "method": name, "eval_loss": loss, "eval_low": loss - half, "eval_high": loss + half, "seeds": 3,
            "state_bytes": 1e6 * place, "wall_s": 10.0 * place,
        }
        for place, (name, (loss, half)) in enumerate(losses.items(), 1)
    ]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize("losses", [LOSSES, LOSSES | FAR, dict(reversed(LOSSES.items()))], ids=str)
def test_the_axis_of_losses_ends_above_all_intervals_that_are_drawn(losses):
    highest = max(loss + half for loss, half in LOSSES.values())
    by_row = every_method.draw(table(losses), Layout()).axes[0]
    against = pareto.draw(table(losses), Layout()).axes[0]
    for end in (by_row.get_xlim()[1], against.get_ylim()[1]):
        assert highest < end < 5.4
    named = [text.get_text() for text in by_row.texts]
    assert named == (["5.40 → "] if "badam" in losses else [])
