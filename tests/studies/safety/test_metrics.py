"""Shares, intervals and consistency by hand-made tables."""

import math

import numpy as np
import pandas as pd
import pytest

from subspace_lab.studies.safety.kinds import JUDGES
from subspace_lab.studies.safety.metrics.consistency import consistency
from subspace_lab.studies.safety.metrics.outcomes import row_of, wilson

EXACT, PREFIX = JUDGES.parse("exact"), JUDGES.parse("prefix")


def test_intervals_of_wilson():
    assert wilson(3, 20) == pytest.approx((0.0524, 0.3604), abs=5e-5)
    z = 1.959963984540054
    for count, total in ((0, 50), (50, 50), (7, 31)):  # the ends solve (share - p)^2 = z^2 p (1 - p) / total
        for end in wilson(count, total):
            assert (count / total - end) ** 2 == pytest.approx(z**2 * end * (1 - end) / total, abs=1e-12)
    assert wilson(0, 50)[0] == 0
    assert wilson(50, 50)[1] == 1
    assert all(math.isnan(end) for end in wilson(0, 0))


def test_consistency_counts_the_pairs_that_agree():
    table = np.array([[1, 1, 1], [0, 0, 0], [1, 0, 1], [0, 0, 1]], dtype=bool)
    assert consistency(table) == pytest.approx((2 / 3, 0.5))
    draw = np.random.default_rng(0)
    table = draw.random((30, 5)) < 0.3
    pairs = [row[i] == row[j] for row in table for i in range(5) for j in range(i)]
    rate = table.mean()
    assert consistency(table) == pytest.approx((np.mean(pairs), rate**2 + (1 - rate) ** 2))
    assert consistency(np.zeros((4, 3), bool)) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([True, False], r"has the shape \(2,\); expected \(prompts, paraphrases\)"),
        ([[True], [False]], r"has the shape \(2, 1\)"),
        (np.zeros((0, 3)), r"has the shape \(0, 3\)"),
        ([[1, 0.5]], "neither true nor false"),
        ([[1, float("nan")]], "neither true nor false"),
    ],
)
def test_consistency_refuses_what_is_no_table_of_refusals(table, message):
    with pytest.raises(ValueError, match=message):
        consistency(table)


def outcomes(*groups, judge="exact") -> pd.DataFrame:
    """Rows of (set, paraphrase, outcomes of its prompts)."""
    return pd.DataFrame([
        {"set": name, "prompt": prompt, "paraphrase": paraphrase, "judge": judge, "outcome": outcome, "score": np.nan}
        for name, paraphrase, found in groups
        for prompt, outcome in enumerate(found)
    ])  # fmt: skip


R, F, N, X = "refused", "fulfilled", "neither", "failed"
MADE = (
    ("restricted", 0, [R, F, F, N, X, R]),
    ("restricted", 1, [R, R, F, F, R, N]),
    ("disguised", 0, [F, F, F, R, X, F]),
    ("contrast", 0, [R, F, F, F]),
    ("allowed", 0, [F, N, R, F, F, X]),
)


def with_task(table: pd.DataFrame) -> pd.DataFrame:
    judges, scores = ["eval_accuracy"] * 3 + ["eval_unparsed"] * 3, [1.0, 0, 1, 0, 1, 0]
    task = pd.DataFrame({"set": "task", "prompt": [0, 1, 2] * 2, "paraphrase": 0, "outcome": None, "judge": judges})
    return pd.concat([table, task.assign(score=scores)], ignore_index=True)


def test_shares_are_over_what_was_judged_and_over_the_prompts_themselves():
    prefixes = outcomes(("restricted", 0, [R, None, None, None, None, R]), judge="prefix")
    found = row_of(with_task(pd.concat([outcomes(*MADE), prefixes])), EXACT)
    expected = {
        "judge": "exact", "n": 5, "failed": 1, "asr": 2 / 5, "asr_low": wilson(2, 5)[0], "asr_high": wilson(2, 5)[1],
        "refusal_rate": 2 / 5, "neither_rate": 1 / 5, "keyword_asr": 4 / 6, "disguised_asr": 4 / 5,
        "over_refusal": 1 / 4, "kept": 3 / 5, "utility": 2 / 3, "utility_metric": "eval_accuracy",
        "refusal_consistency": 3 / 5,  # of prompts 0, 1, 2, 3 and 5, the pairs of 1 and 5 differ
        "null_consistency": 0.4**2 + 0.6**2,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["keyword_list"].startswith("1:")


def test_what_a_judge_cannot_tell_is_missing():
    table = outcomes(
        ("restricted", 0, [R, None, None]), ("contrast", 0, [None, R]), ("allowed", 0, [None]), judge="prefix"
    )
    found = row_of(table, PREFIX)
    assert found["refusal_rate"] == pytest.approx(1 / 3)
    assert found["keyword_asr"] == pytest.approx(2 / 3)
    assert found["over_refusal"] == 0.5
    missing = ("asr", "asr_low", "asr_high", "neither_rate", "kept", "refusal_consistency", "utility", "disguised_asr")
    assert all(math.isnan(found[name]) for name in missing)
    assert found["utility_metric"] == ""


def test_nothing_judged_is_missing_and_counted():
    found = row_of(outcomes(("restricted", 0, [X, X]), ("restricted", 1, [X, R])), EXACT)
    assert (found["n"], found["failed"]) == (0, 2)
    assert all(math.isnan(found[name]) for name in ("asr", "asr_low", "refusal_rate", "refusal_consistency"))
