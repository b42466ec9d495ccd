"""Descents on Ackley's function against closed forms, and pictures of them against medians in plain Python."""

from __future__ import annotations

import math
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from subspace_lab.figures import NARROW, PAGE, AbsentError
from subspace_lab.studies.grass_paper.quantities.ackley import (
    FULL_RANK,
    METHODS,
    ackley,
    descents,
    starting_point,
    step_lengths,
    values_by_scale,
    values_by_step,
)
from tests.figures.test_drawings import axes_of, check_curve, check_texts, curves, text_boxes

SIZE, RANK = 6, 2
NAMES = [*METHODS, FULL_RANK]
PICTURES = {"values_by_step": values_by_step, "values_by_scale": values_by_scale, "step_lengths": step_lengths}


@pytest.fixture(scope="module")
def descent() -> pd.DataFrame:
    return descents(scales=(1.0, 3.0), num_seeds=2, steps=12, size=SIZE, rank=RANK, lr=0.1, update_interval=5)


def literal(entries: list[float]) -> float:
    d = len(entries)
    squares, waves = sum(w * w for w in entries), sum(math.cos(2 * math.pi * w) for w in entries)
    return -20 * math.exp(-0.2 * math.sqrt(squares / d)) - math.exp(waves / d) + 20 + math.e


def test_the_function_is_that_of_the_textbooks() -> None:
    W = starting_point(4, seed=3)
    assert float(ackley(W)) == pytest.approx(literal(W.flatten().tolist()), rel=1e-12)
    assert float(ackley(torch.zeros(3, 2))) == pytest.approx(0, abs=1e-6)


def test_one_row_per_step_of_every_descent(descent: pd.DataFrame) -> None:
    assert list(descent.columns) == ["method", "scale", "seed", "step", "value", "move"]
    counts = descent.groupby(["method", "scale", "seed"])["step"].agg(["min", "max", "count"])
    assert set(counts.index) == {(m, s, k) for m in (*METHODS, FULL_RANK) for s in (1.0, 3.0) for k in (0, 1)}
    assert (counts == [0, 12, 13]).all(axis=None)
    assert descent["move"].isna().equals(descent["step"] == 0)


def test_all_methods_start_from_the_same_points(descent: pd.DataFrame) -> None:
    start = descent[descent["step"] == 0]
    for seed, values in start.groupby("seed")["value"]:
        expected = literal(starting_point(SIZE, int(str(seed))).flatten().tolist())
        assert values.tolist() == pytest.approx([expected] * len(values), rel=1e-12)
    assert start["value"].nunique() == 2


@pytest.mark.parametrize(
    ("method", "entries"),
    [
        (FULL_RANK, SIZE * SIZE),
        ("GaLore (SVD)", RANK * SIZE),
        ("tracking alone", RANK * SIZE),
        ("frozen alone", RANK * SIZE),
    ],
)
def test_first_steps_have_the_length_of_adams(descent: pd.DataFrame, method: str, entries: int) -> None:
    """Adam's first direction is a sign in each entry, so its norm is the root of their number."""
    first = descent[(descent["method"] == method) & (descent["step"] == 1)]
    expected = 0.1 * first["scale"] * entries**0.5
    assert first["move"].tolist() == pytest.approx(expected.tolist(), rel=1e-4)


def test_a_scale_is_a_learning_rate(descent: pd.DataFrame) -> None:
    tripled = descents(scales=(1.0,), num_seeds=2, steps=12, size=SIZE, rank=RANK, lr=0.3, update_interval=5)
    scaled = descent[descent["scale"] == 3].drop(columns="scale").reset_index(drop=True)
    pd.testing.assert_frame_equal(scaled, tripled.drop(columns="scale"), rtol=1e-6)


def test_refreshed_bases_part_from_the_frozen_one_at_the_refresh(descent: pd.DataFrame) -> None:
    """Alike up to step 5, since all begin with the gradient's own space; the basis is refreshed before step 6."""
    moves = descent[(descent["scale"] == 1) & (descent["seed"] == 0)].pivot_table(
        index="step", columns="method", values="move"
    )
    for method in ("GaLore (SVD)", "tracking alone"):
        ratio = (moves[method] / moves["frozen alone"]).loc[1:]
        assert ratio.loc[:5].tolist() == pytest.approx([1.0] * 5, rel=1e-9)
        assert abs(ratio.loc[6] - 1) > 1e-6


@pytest.mark.parametrize("wrong", [{"scales": ()}, {"num_seeds": 0}, {"steps": 0}, {"rank": 0}, {"rank": 17}])
def test_nothing_to_measure(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"scale|larger") as error:
        descents(**wrong)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


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
    axes = axes_of(values_by_step.draw(table))
    assert list(axes) == ["scale 1", "scale 3"]
    for scale, ax in zip((1.0, 3.0), axes.values(), strict=True):
        for method, curve in zip(NAMES, curves(ax), strict=True):
            check_curve(curve, expected(table, "value", "step", method=method, scale=scale))
        assert sorted(text.get_text() for text in ax.texts) == sorted(NAMES)


def test_the_band_holds_the_middle_half(table: pd.DataFrame) -> None:
    ax = axes_of(values_by_step.draw(table))["scale 1"]
    rows = table[(table["method"] == NAMES[0]) & (table["scale"] == 1) & (table["step"] == 7)]
    band = ax.collections[0].get_paths()[0].vertices
    at_7 = band[band[:, 0] == 7, 1]
    assert (at_7.min(), at_7.max()) == pytest.approx(tuple(np.percentile(rows["value"], [25, 75])))


def test_values_by_scale_are_those_after_the_last_step(table: pd.DataFrame) -> None:
    (ax,) = values_by_scale.draw(table).axes
    for method, container in zip(NAMES, ax.containers, strict=True):
        line = container[0]
        assert container.get_label() == method
        values = expected(table, "value", "scale", method=method, step=20)
        assert line.get_ydata().tolist() == pytest.approx(list(values.values()))
        assert line.get_xdata().tolist() == pytest.approx(list(values), rel=0.1)  # moved aside


def test_lengths_of_steps_have_a_panel_per_method(table: pd.DataFrame) -> None:
    axes = axes_of(step_lengths.draw(table))
    assert list(axes) == NAMES
    for method, ax in axes.items():
        for scale, curve in zip((1.0, 3.0), curves(ax), strict=True):
            check_curve(curve, expected(table[table["step"] > 0], "move", "step", method=method, scale=scale))


@pytest.mark.parametrize("picture", [values_by_step, step_lengths])
def test_without_the_published_scales_there_is_nothing_to_draw(table: pd.DataFrame, picture: Any) -> None:
    with pytest.raises(AbsentError, match="scale 1"):
        picture.draw(table[table["scale"] < 1])


@pytest.mark.parametrize("layout", [PAGE, NARROW], ids=["page", "narrow"])
@pytest.mark.parametrize("picture", PICTURES.values(), ids=PICTURES)
def test_no_text_is_cut_or_covered(table: pd.DataFrame, picture: Any, layout: Any) -> None:
    drawn: Figure = picture.draw(table, layout)
    check_texts(picture.title, text_boxes(drawn, layout), drawn.bbox)
