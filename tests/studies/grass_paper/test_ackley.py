"""The descents on Ackley's function against closed forms: of the function, and of first steps."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import torch

from subspace_lab.studies.grass_paper import ackley
from subspace_lab.studies.grass_paper.ackley import FULL_RANK, METHODS, measure, starting_point

SIZE, RANK = 6, 2


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return measure(scales=(1.0, 3.0), num_seeds=2, steps=12, size=SIZE, rank=RANK, lr=0.1, update_interval=5)


def literal(entries: list[float]) -> float:
    d = len(entries)
    squares, waves = sum(w * w for w in entries), sum(math.cos(2 * math.pi * w) for w in entries)
    return -20 * math.exp(-0.2 * math.sqrt(squares / d)) - math.exp(waves / d) + 20 + math.e


def test_the_function_is_that_of_the_textbooks() -> None:
    W = starting_point(4, seed=3)
    assert float(ackley.ackley(W)) == pytest.approx(literal(W.flatten().tolist()), rel=1e-12)
    assert float(ackley.ackley(torch.zeros(3, 2))) == pytest.approx(0, abs=1e-6)


def test_one_row_per_step_of_every_descent(table: pd.DataFrame) -> None:
    assert list(table.columns) == ["method", "scale", "seed", "step", "value", "move"]
    counts = table.groupby(["method", "scale", "seed"])["step"].agg(["min", "max", "count"])
    assert set(counts.index) == {(m, s, k) for m in (*METHODS, FULL_RANK) for s in (1.0, 3.0) for k in (0, 1)}
    assert (counts == [0, 12, 13]).all(axis=None)
    assert table["move"].isna().equals(table["step"] == 0)


def test_all_methods_start_from_the_same_points(table: pd.DataFrame) -> None:
    start = table[table["step"] == 0]
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
def test_first_steps_have_the_length_of_adams(table: pd.DataFrame, method: str, entries: int) -> None:
    """Adam's first direction is a sign in each entry, so its norm is the root of their number."""
    first = table[(table["method"] == method) & (table["step"] == 1)]
    expected = 0.1 * first["scale"] * entries**0.5
    assert first["move"].tolist() == pytest.approx(expected.tolist(), rel=1e-4)


def test_a_scale_is_a_learning_rate(table: pd.DataFrame) -> None:
    tripled = measure(scales=(1.0,), num_seeds=2, steps=12, size=SIZE, rank=RANK, lr=0.3, update_interval=5)
    scaled = table[table["scale"] == 3].drop(columns="scale").reset_index(drop=True)
    pd.testing.assert_frame_equal(scaled, tripled.drop(columns="scale"), rtol=1e-6)


def test_refreshed_bases_part_from_the_frozen_one_at_the_refresh(table: pd.DataFrame) -> None:
    """Alike up to step 5, since all begin with the gradient's own space; the basis is refreshed before step 6."""
    moves = table[(table["scale"] == 1) & (table["seed"] == 0)].pivot_table(
        index="step", columns="method", values="move"
    )
    for method in ("GaLore (SVD)", "tracking alone"):
        ratio = (moves[method] / moves["frozen alone"]).loc[1:]
        assert ratio.loc[:5].tolist() == pytest.approx([1.0] * 5, rel=1e-9)
        assert abs(ratio.loc[6] - 1) > 1e-6


@pytest.mark.parametrize("wrong", [{"scales": ()}, {"num_seeds": 0}, {"steps": 0}, {"rank": 0}, {"rank": 17}])
def test_nothing_to_measure(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"scale|larger") as error:
        measure(**wrong)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
