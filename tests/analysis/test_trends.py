"""Changes and evenness of tables made by hand, in both directions."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from subspace_lab.analysis.trends import change_over_depth, change_over_training, evenness, thirds


def table(columns: str, *rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=columns.split())


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(1, (0, 1, 0)), (2, (1, 0, 1)), (3, (1, 1, 1)), (4, (1, 2, 1)), (5, (1, 3, 1)), (6, (2, 2, 2)), (8, (2, 4, 2)),
     (20, (6, 8, 6))],
)  # fmt: skip
def test_outer_thirds_are_rounded_down_and_equal(count: int, sizes: tuple[int, ...]) -> None:
    steps = [10 * place for place in range(count)]
    parts = thirds([*reversed(steps), *steps])
    assert tuple(map(len, parts)) == sizes
    assert [step for part in parts for step in part] == steps


STEPS = (0, 1, 2, 50, 51, 52, 53, 100)  # the first and the last two count


def course(values: dict[str, tuple[float, ...]], **constant: object) -> pd.DataFrame:
    rows = [(step, layer, of[place]) for layer, of in values.items() for place, step in enumerate(STEPS)]
    return table("step layer ratio", *rows).assign(**constant)


def test_change_over_training() -> None:
    falls, rises = (9.0, 7, 0, 0, 0, 0, 3, 2), (1.0, 1, 9, 9, 9, 9, 2, 4)
    found = change_over_training(course({"a": falls, "b": rises}))
    assert found.to_dict() == {"a": -5.5, "b": 2.0}
    backwards = change_over_training(course({"a": falls[::-1], "b": rises[::-1]}))
    assert backwards.to_dict() == {"a": 5.5, "b": -2.0}


def test_change_over_training_of_another_column_and_other_groups() -> None:
    rows = pd.concat([
        course({"a": (0.0,) * 6 + (1.0, 1.0), "b": (0.0,) * 6 + (3.0, 3.0)}, seed=0),
        course({"a": (2.0,) * 2 + (1.0,) * 6, "b": (4.0,) * 2 + (0.0,) * 6}, seed=1),
    ]).rename(columns={"ratio": "fraction"})
    found = change_over_training(rows, "fraction", by=("seed", "layer"))
    assert found.to_dict() == {(0, "a"): 1.0, (0, "b"): 3.0, (1, "a"): -1.0, (1, "b"): -4.0}
    assert change_over_training(rows, "fraction", by=("seed",)).to_dict() == {0: 2.0, 1: -2.5}


def test_a_layer_without_values_at_one_end_is_not_a_change() -> None:
    rows = course({"a": (1.0, 1, 1, 1, 1, 1, 2, 2), "b": (9.0,) * 8})
    gone = rows[(rows["layer"] == "a") | (rows["step"] < 100) & (rows["step"] != 53)]
    assert change_over_training(gone).to_dict() == {"a": 1.0}
    undefined = rows.assign(ratio=rows["ratio"].where((rows["layer"] == "a") | (rows["step"] > 2)))
    assert change_over_training(undefined).to_dict() == {"a": 1.0}


def test_change_over_training_needs_two_steps() -> None:
    rows = course({"a": (1.0, 2.0, *(5.0,) * 6)})
    assert change_over_training(rows[rows["step"] <= 1]).to_dict() == {"a": 1.0}
    assert len(change_over_training(rows[rows["step"] == 0])) == 0


def depths(values: dict[str, dict[int, float]]) -> pd.DataFrame:
    """Every block at two steps, between which its value changes by 0.2."""
    rows = [
        (kind, depth, value + shift) for kind, of in values.items() for depth, value in of.items()
        for shift in (-0.1, 0.1)
    ]  # fmt: skip
    return table("kind depth ratio", *rows)


def test_change_over_depth_is_that_of_the_fitted_line() -> None:
    values = {"q": {0: 1.0, 1: 7.0, 2: 7.0, 3: 7.0, 4: 3.0}, "v": {3: 0.9, 5: 0.5}, "o": {0: 0.4, 2: 0.4, 9: 0.4}}
    expected = {"q": 4 * (-2 * 1 - 7 + 7 + 2 * 3) / 10, "v": -0.4, "o": 0.0}
    found = change_over_depth(depths(values))
    assert {kind: found[kind] for kind in values} == pytest.approx(expected, abs=1e-12)
    flipped = change_over_depth(
        depths({kind: {10 - depth: x for depth, x in of.items()} for kind, of in values.items()})
    )
    assert {kind: flipped[kind] for kind in values} == pytest.approx({k: -x for k, x in expected.items()}, abs=1e-12)


def test_a_block_counts_once_however_many_rows_it_has() -> None:
    rows = pd.concat([depths({"q": {0: 0.0, 1: 0.0, 2: 3.0}}), *[depths({"q": {2: 3.0}})] * 5])
    assert change_over_depth(rows)["q"] == pytest.approx(2 * (-1 * 0 + 1 * 3) / 2)


def test_layers_outside_of_the_blocks_and_single_blocks_have_no_change_over_depth() -> None:
    rows = depths({"q": {0: 1.0, 1: 2.0}, "head": {-1: 9.0, 0: 1.0}, "v": {3: 1.0}})
    assert change_over_depth(rows).index.get_level_values("kind").tolist() == ["q"]
    assert len(change_over_depth(rows[rows["kind"] == "v"])) == 0
    undefined = depths({"q": {0: 1.0, 1: 2.0, 2: math.nan}})
    assert change_over_depth(undefined)["q"] == pytest.approx(1.0)


def test_change_over_depth_of_other_groups() -> None:
    rows = pd.concat([depths({"q": {0: 1.0, 2: 4.0}}).assign(seed=0), depths({"q": {0: 1.0, 2: 0.0}}).assign(seed=1)])
    found = change_over_depth(rows.rename(columns={"ratio": "x"}), "x", by=("seed", "kind"))
    assert found.groupby("seed").mean().to_dict() == pytest.approx({0: 3.0, 1: -1.0})


def spectra(*values: tuple[int, str, int, tuple[float, ...]]) -> pd.DataFrame:
    rows = [(step, layer, lag, index, x) for step, layer, lag, of in values for index, x in enumerate(of)]
    return table("step layer lag_steps index normalized", *rows[::-1])


def test_evenness_is_the_last_value_over_the_first() -> None:
    found = evenness(spectra(
        (0, "a", 10, (4.0, 3.0, 1.0)), (0, "a", 20, (8.0, 8.0, 8.0)), (0, "b", 10, (10.0, 1.0, 0.0)),
        (5, "a", 10, (0.5, 0.25)),
    ))  # fmt: skip
    assert found.to_dict() == {(0, "a", 10): 0.25, (0, "a", 20): 1.0, (0, "b", 10): 0.0, (5, "a", 10): 0.5}


def test_evenness_is_a_mean_of_ratios_and_not_a_ratio_of_means() -> None:
    rows = spectra((0, "a", 10, (100.0, 10.0)), (0, "b", 10, (1.0, 0.9)))
    assert evenness(rows).mean() == pytest.approx((0.1 + 0.9) / 2)
    assert evenness(rows.assign(other=rows["normalized"] ** 2), "other").mean() == pytest.approx((0.01 + 0.81) / 2)


def test_a_spectrum_of_nothing_has_no_evenness() -> None:
    rows = spectra((0, "a", 10, (0.0, 0.0)), (0, "b", 10, (math.nan, math.nan)), (0, "c", 10, (2.0, 1.0)))
    assert evenness(rows, by=("layer",)).to_dict() == {"c": 0.5}
