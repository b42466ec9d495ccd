"""What the figures of Ackley's function draw, against medians worked out from the table in plain Python."""

from __future__ import annotations

from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from subspace_lab.figures import NARROW, PAGE, AbsentError
from subspace_lab.studies.grass_paper.ackley import FULL_RANK, METHODS
from subspace_lab.studies.grass_paper.figures import ackley, ackley_jumps, ackley_scales
from tests.figures.test_drawings import axes_of, check_curve, check_texts, curves, text_boxes

FIGURES = (ackley, ackley_scales, ackley_jumps)
NAMES = [*METHODS, FULL_RANK]


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Values that fall differently for every method, scale and seed."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for place, method in enumerate(NAMES):
        for scale in (0.3, 1.0, 3.0):
            for seed in range(5):
                values = 10 - place - np.log1p(np.arange(21)) * scale * 0.3 + rng.random(21)
                moves = [np.nan, *(scale * (1 + place) * (1 + rng.random(20)))]
                about = {"method": method, "scale": scale, "seed": seed}
                rows += [{**about, "step": t, "value": values[t], "move": moves[t]} for t in range(21)]
    return pd.DataFrame(rows)


def expected(table: pd.DataFrame, column: str, by: str, **chosen: object) -> dict[float, float]:
    rows = [row for row in table.to_dict("records") if all(row[name] == value for name, value in chosen.items())]
    return {at: median(row[column] for row in rows if row[by] == at) for at in sorted({row[by] for row in rows})}


def test_values_are_medians_over_seeds_at_both_scales(table: pd.DataFrame) -> None:
    axes = axes_of(ackley.draw(table))
    assert list(axes) == ["scale 1", "scale 3"]
    for scale, ax in zip((1.0, 3.0), axes.values(), strict=True):
        for method, curve in zip(NAMES, curves(ax), strict=True):
            check_curve(curve, expected(table, "value", "step", method=method, scale=scale))
        assert sorted(text.get_text() for text in ax.texts) == sorted(NAMES)


def test_the_band_holds_the_middle_half(table: pd.DataFrame) -> None:
    ax = axes_of(ackley.draw(table))["scale 1"]
    rows = table[(table["method"] == NAMES[0]) & (table["scale"] == 1) & (table["step"] == 7)]
    band = ax.collections[0].get_paths()[0].vertices
    at_7 = band[band[:, 0] == 7, 1]
    assert (at_7.min(), at_7.max()) == pytest.approx(tuple(np.percentile(rows["value"], [25, 75])))


def test_values_by_scale_are_those_after_the_last_step(table: pd.DataFrame) -> None:
    (ax,) = ackley_scales.draw(table).axes
    for method, container in zip(NAMES, ax.containers, strict=True):
        line = container[0]
        assert container.get_label() == method
        values = expected(table, "value", "scale", method=method, step=20)
        assert line.get_ydata().tolist() == pytest.approx(list(values.values()))
        assert line.get_xdata().tolist() == pytest.approx(list(values), rel=0.1)  # moved aside


def test_lengths_of_steps_have_a_panel_per_method(table: pd.DataFrame) -> None:
    axes = axes_of(ackley_jumps.draw(table))
    assert list(axes) == NAMES
    for method, ax in axes.items():
        for scale, curve in zip((1.0, 3.0), curves(ax), strict=True):
            check_curve(curve, expected(table[table["step"] > 0], "move", "step", method=method, scale=scale))


@pytest.mark.parametrize("figure", [ackley, ackley_jumps])
def test_without_the_published_scales_there_is_nothing_to_draw(table: pd.DataFrame, figure: Any) -> None:
    with pytest.raises(AbsentError, match="scale 1"):
        figure.draw(table[table["scale"] < 1])


@pytest.mark.parametrize("layout", [PAGE, NARROW], ids=["page", "narrow"])
@pytest.mark.parametrize("figure", FIGURES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_no_text_is_cut_or_covered(table: pd.DataFrame, figure: Any, layout: Any) -> None:
    drawn: Figure = figure.draw(table, layout)
    check_texts(figure.TITLE, text_boxes(drawn, layout), drawn.bbox)
