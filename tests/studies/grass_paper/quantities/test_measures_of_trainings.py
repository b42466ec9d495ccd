"""What quantities of trainings measure, row by row, on tables made by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest

from subspace_lab.studies.grass_paper.profiles import PROFILES
from subspace_lab.studies.grass_paper.quantities import (
    ablation,
    methods_overview,
    random_bases,
    recovery,
    refresh,
    sensitivity,
)
from tests.studies.grass_paper.by_hand import T1, Tables, records, table, trainings

NAN = math.nan
# the best rate of svd is 3e-3 by the first seed, that of frozen the lowest; walk+AO+RS goes by grasswalk
LOSSES = {
    "svd": {1e-3: [4.5], 3e-3: [4.0, 4.8], 8e-3: [4.25]},
    "frozen+AO": {1e-3: [5.0, 5.5], 3e-3: [6.0]},
    "grasswalk": {3e-3: [3.0]},
    "walk+AO+RS free": {1e-3: [3.5], 8e-3: [3.25]},
    "adamw": {1e-3: [1.0]},
}
SHARES = "cell seed step bulk_share recovery_share limiter limited_share"


def curves(losses: dict[str, dict[float, list[float]]]) -> pd.DataFrame:
    """Three points that count of every cell, one of them without a limiter, and one where nobody looked."""
    cells = trainings(losses)
    rows = [
        (name, seed, *values)
        for place, (name, seed) in enumerate(zip(cells["cell"], cells["seed"], strict=True))
        for values in (
            (2.5, 0.1, 1.0 + place, 0.9, 0.0), (8.5, NAN, NAN, NAN, NAN), (14.5, 0.2, 4.0, NAN, 0.5),
            (20.5, 0.6, 7.0, 0.3, 1.0),
        )
    ]  # fmt: skip
    return table(SHARES, *rows)


def store(**changes: object) -> Tables:
    return Tables(PROFILES["cpu"], results=trainings(LOSSES), curves=curves(LOSSES))


def test_the_ablation_has_losses_at_the_best_rate_and_means_over_the_steps() -> None:
    found = ablation.measure(store())
    assert list(found.columns) == [
        "method", "rule", "moments", "recovery", "lr", "edge", "seed", "eval_loss", "train_loss", "bulk_share",
        "recovery_share", "limiter", "limited_share",
    ]  # fmt: skip
    assert records(found, "method rule moments recovery lr edge seed eval_loss train_loss") == [
        ("svd", "svd", "keep", "none", 3e-3, "", 0, 4.0, 3.75), ("svd", "svd", "keep", "none", 3e-3, "", 1, 4.8, 4.55),
        ("frozen+AO", "frozen", "transport", "none", 1e-3, "low", 0, 5.0, 4.75),
        ("frozen+AO", "frozen", "transport", "none", 1e-3, "low", 1, 5.5, 5.25),
        ("grasswalk", "walk", "transport", "limited", 3e-3, "only", 0, 3.0, 2.75),
        ("walk+AO+RS free", "walk", "transport", "free", 8e-3, "high", 0, 3.25, 3.0),
    ]  # fmt: skip
    assert found["bulk_share"].tolist() == pytest.approx([0.3] * 6)
    places = (1, 2, 4, 5, 7, 9)  # of the cells among all
    assert found["recovery_share"].tolist() == pytest.approx([(12 + place) / 3 for place in places])
    assert found["limiter"].tolist() == pytest.approx([0.6] * 6)
    assert found["limited_share"].tolist() == pytest.approx([0.5] * 6)


def test_the_recovered_part_is_followed_where_moments_are_transported() -> None:
    found = recovery.measure(store())
    assert list(found.columns) == ["rule", "recovery", "seed", "step", "bulk_share", "recovery_share", "limiter"]
    keys = [("frozen", "none", 0, 4), ("frozen", "none", 1, 5), ("walk", "limited", 0, 7), ("walk", "free", 0, 9)]
    expected = [
        (rule, free, seed, step, bulk, recovered + (place if step == 2.5 else 0))
        for rule, free, seed, place in keys
        for step, bulk, recovered in ((2.5, 0.1, 1.0), (14.5, 0.2, 4.0), (20.5, 0.6, 7.0))
    ]
    assert records(found, "rule recovery seed step bulk_share recovery_share") == expected
    assert found["limiter"].fillna(-1).tolist() == [0.9, -1, 0.3] * 4


def test_times_are_those_of_methods_with_a_subspace() -> None:
    losses = {"golore": {1e-3: [4.0], 3e-3: [2.0, 8.0]}, "badam": {1e-3: [1.0]}, "adamw": {1e-3: [1.0]},
              "apollo": {1e-3: [3.2]}, "svd": {1e-3: [1.0]}}  # fmt: skip
    found = refresh.measure(Tables(PROFILES["cpu"], results=trainings(losses)))
    assert list(found.columns) == ["method", "seed", "refresh_share", "refresh_s", "wall_s", "step_s"]
    assert records(found, "method seed refresh_share refresh_s wall_s step_s") == [
        ("apollo", 0, 0.2, 6.4, 32.0, 0.4), ("golore", 0, 0.125, 4.0, 20.0, 0.25), ("golore", 1, 0.5, 16.0, 80.0, 1.0),
    ]  # fmt: skip


def test_times_of_the_larger_size() -> None:
    losses = {name: {1e-4: [2.0]} for name in ("adamw llama-7b", "badam llama-7b", "rso llama-7b", "rso")}
    found = refresh.measure(Tables(PROFILES["paper"], results=trainings(losses)))
    assert found["method"].tolist() == ["rso", "rso llama-7b"]


def test_random_bases_with_the_limiter_and_without() -> None:
    losses = {**LOSSES, "coordinates+AO+RS": {1e-3: [3.2, 4.8]}, "hybrid+AO+RS free": {1e-3: [9.0], 3e-3: [8.0]},
              "jump+AO": {1e-3: [1.0]}, "grassjump": {1e-3: [5.0]}}  # fmt: skip
    found = random_bases.measure(Tables(PROFILES["cpu"], results=trainings(losses)))
    assert records(found, "method rule recovery lr edge seed eval_loss refresh_share") == [
        ("grasswalk", "walk", "limited", 3e-3, "only", 0, 3.0, 0.1875),
        ("grassjump", "jump", "limited", 1e-3, "only", 0, 5.0, 0.3125),
        ("coordinates+AO+RS", "coordinates", "limited", 1e-3, "only", 0, 3.2, 0.2),
        ("coordinates+AO+RS", "coordinates", "limited", 1e-3, "only", 1, 4.8, 0.3),
        ("walk+AO+RS free", "walk", "free", 8e-3, "high", 0, 3.25, 0.203125),
        ("hybrid+AO+RS free", "hybrid", "free", 3e-3, "high", 0, 8.0, 0.5),
    ]


@pytest.mark.parametrize(
    ("name", "usual"),
    [("cpu", {"rank": 16, "update_interval": 20}), ("paper", {"rank": 512, "update_interval": 200})],
)
def test_the_usual_value_stands_in_the_rows_of_every_setting(name: str, usual: dict[str, float]) -> None:
    losses = {"grasswalk": {1e-3: [4.0], 3e-3: [3.0, 3.5]}, "grasswalk zeta=1.1": {3e-3: [3.1]},
              "walk+AO+RS free": {3e-3: [2.9]}, "grasswalk scale=0.25": {1e-3: [2.5]},
              "grasswalk walk_step=0.3": {1e-3: [2.6]}, "galore": {1e-3: [1.0]}}  # fmt: skip
    found = sensitivity.measure(Tables(PROFILES[name], results=trainings(losses)))
    of_usual = {"rank": usual["rank"], "scale": 1.0, "update_interval": usual["update_interval"], "walk_step": 0.1,
                "zeta": 1.01}  # fmt: skip
    rows = records(found[found["usual"]], "setting value seed lr edge eval_loss")
    assert rows == [
        (setting, value, seed, 3e-3, "high", loss)
        for setting, value in of_usual.items()
        for seed, loss in ((0, 3.0), (1, 3.5))
    ]
    changed = found[~found["usual"]].fillna({"value": -1})
    assert records(changed, "method setting value seed eval_loss") == [
        ("grasswalk scale=0.25", "scale", 0.25, 0, 2.5), ("grasswalk walk_step=0.3", "walk_step", 0.3, 0, 2.6),
        ("grasswalk zeta=1.1", "zeta", 1.1, 0, 3.1), ("walk+AO+RS free", "zeta", -1, 0, 2.9),
    ]  # fmt: skip
    assert found["setting"].is_monotonic_increasing


def test_the_tables_have_every_method_of_the_profile_and_no_other(tmp_path: Path) -> None:
    """Means, spreads and paired gaps of two seeds; the picture and both files are of the same rows."""
    losses = {"galore": {1e-3: [5.0], 3e-3: [4.0, 4.4]}, "grasswalk": {1e-3: [3.9, 4.1]}, "svd": {1e-3: [1.0]}}
    cells = trainings(losses).assign(tokens=100, state_bytes=8, state_bytes_formula=8, peak_bytes=16, base_bytes=4)
    (tmp_path / "tables").mkdir()
    found = methods_overview.QUANTITY.measure(Tables(PROFILES["cpu"], tmp_path, results=cells.assign(reason="")))
    assert records(found, "method lr edge lrs seeds failed") == [
        ("grasswalk", 1e-3, "only", 1, 2, 0), ("galore", 3e-3, "high", 2, 2, 0),
    ]  # fmt: skip
    numbers = found.set_index("method").astype("float64", errors="ignore")
    walk, galore = numbers.loc["grasswalk"], numbers.loc["galore"]
    half = T1 * 0.1  # the mean of two values that differ by 0.2 has a standard error of 0.1
    assert walk[["eval_loss", "eval_sd", "eval_low", "eval_high"]].tolist() == pytest.approx([
        4.0,
        0.2 / math.sqrt(2),
        4 - half,
        4 + half,
    ])
    half = T1 * 0.1  # of 0.1 and 0.3
    assert galore[["gap", "gap_low", "gap_high"]].tolist() == pytest.approx([0.2, 0.2 - half, 0.2 + half])
    assert galore[["train_loss", "step_s", "refresh_share", "wall_s"]].tolist() == pytest.approx([
        3.95,
        0.525,
        0.2625,
        42.0,
    ])
    assert pd.read_csv(tmp_path / "tables" / "tables.csv")["gap"].tolist() == pytest.approx([0.0, 0.2])
    assert r"galore & 0.003" in (tmp_path / "tables" / "tables.tex").read_text(encoding="utf-8")


@pytest.mark.parametrize("module", [ablation, methods_overview, random_bases, recovery, refresh, sensitivity])
def test_where_there_is_nothing_there_is_no_row(module, tmp_path: Path) -> None:
    assert module.QUANTITY.measure(Tables(PROFILES["cpu"], tmp_path)).empty
    other = trainings({"something else": {1e-3: [4.0]}})
    assert module.QUANTITY.measure(Tables(PROFILES["cpu"], tmp_path, results=other)).empty
