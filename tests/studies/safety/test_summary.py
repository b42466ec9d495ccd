"""The headline from tables made by hand."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from subspace_lab.studies.safety.summary import COLUMNS, summarize
from subspace_lab.studies.safety.tables import RESULTS


def table(*rows):
    """Rows of (defense, lr, seed, asr, utility), or with a status."""
    made = []
    for defense, lr, seed, asr, utility, *status in rows:
        made.append({
            **dict.fromkeys(RESULTS), "cell": "", "hash": "", "parent": "", "evaluation": "", "stage": "tuned",
            "policy": "digits", "task": "sentiment", "threat": "poison:share=0.3", "share": 0.3, "draw": 0,
            "regime": "adamw", "lr": lr, "defense": defense, "seed": seed, "status": (status or ["complete"])[0],
            "reason": "", "judge": "exact", "asr": asr, "utility": utility, "keyword_list": "", "utility_metric": "",
            "passes": 150,
        })  # fmt: skip
    return pd.DataFrame(made, columns=[*RESULTS]).astype(RESULTS)


PLAIN = [("none", lr, seed, asr, 1.0) for lr, asr in ((1e-3, 0.9), (3e-3, 0.8)) for seed in range(3)]


def rows_of(*rows):
    found = summarize(table(*rows))
    assert [*found.columns] == [*COLUMNS]
    return {row["defense"]: row for row in found.to_dict("records")}


def test_the_attacker_takes_the_worst_rate_that_keeps_the_task():
    """At 1e-3 the defense looks good, at 3e-3 it does not; at 1e-2 it is worse still and the task is gone."""
    guarded = [(1e-3, 0.1, 1.0), (3e-3, 0.5, 0.9), (1e-2, 0.95, 0.89)]
    found = rows_of(*PLAIN, *[("spf", lr, seed, asr + 0.1 * seed, u) for lr, asr, u in guarded for seed in range(3)])
    assert (found["none"]["lr"], found["none"]["asr"]) == (1e-3, pytest.approx(0.9))
    row = found["spf"]
    assert (row["lr"], row["guarded"], row["seeds"], row["asr"]) == (3e-3, True, 3, pytest.approx(0.6))
    assert row["asr_sd"] == pytest.approx(0.1)
    half = 4.302652729911275 * 0.1 / math.sqrt(3)  # Student's t with two degrees of freedom
    assert (row["asr_low"], row["asr_high"]) == (pytest.approx(0.6 - half), pytest.approx(0.6 + half))
    assert (row["gap"], row["gap_low"]) == (pytest.approx(-0.3), pytest.approx(-0.3 - half))
    assert row["utility_gap"] == pytest.approx(-0.1)
    assert (row["control"], math.isnan(row["control_gap"])) == ("", True)


def test_without_a_rate_that_keeps_the_task_there_is_no_attack_success():
    row = rows_of(*PLAIN, ("resta", 1e-3, 0, 0.1, 0.3), ("resta", 3e-3, 0, 0.0, 0.2))["resta"]
    assert (row["guarded"], row["lr"], row["utility"]) == (False, 1e-3, pytest.approx(0.3))
    assert all(math.isnan(row[name]) for name in ("asr", "asr_low", "gap", "control_gap"))


def test_gaps_are_paired_by_seed_and_draw_with_none_and_with_the_control():
    control = [("rehearsal", 1e-3, seed, 0.3 + 0.1 * seed, 1.0) for seed in range(3)]
    mine = [("safegrad", 1e-3, seed, 0.1 + 0.1 * seed, 1.0) for seed in range(2)]  # one seed is missing
    row = rows_of(*PLAIN, *control, *mine)["safegrad"]
    assert (row["gap"], row["control"]) == (pytest.approx(-0.75), "rehearsal")
    assert (row["control_gap"], row["control_gap_low"]) == (pytest.approx(-0.2), pytest.approx(-0.2))


def test_what_failed_and_what_is_not_supported_is_counted_and_never_averaged():
    found = rows_of(
        *PLAIN, ("spf", 1e-3, 0, 0.2, 1.0), ("spf", 1e-3, 1, None, None, "diverged"),
        ("spf", 3e-3, 0, None, None, "pending"), ("lisa", 1e-3, 0, None, None, "unsupported"),
    )  # fmt: skip
    assert (found["spf"]["seeds"], found["spf"]["failed"], found["spf"]["asr"]) == (1, 1, pytest.approx(0.2))
    assert (found["lisa"]["unsupported"], found["lisa"]["seeds"]) == (1, 0)
    assert (found["lisa"]["guarded"], math.isnan(found["lisa"]["lr"])) == (False, True)


def test_without_none_the_guard_is_of_the_best_defense_and_nothing_is_empty():
    found = rows_of(("spf", 1e-3, 0, 0.2, 1.0), ("lisa", 1e-3, 0, 0.9, 0.5))
    assert (found["spf"]["guarded"], found["lisa"]["guarded"]) == (True, False)
    assert math.isnan(found["spf"]["gap"])
    assert summarize(table()).empty
