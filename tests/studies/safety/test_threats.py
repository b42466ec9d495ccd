"""What becomes of a user's rows, by every threat."""

from collections import Counter

import pytest

from subspace_lab.studies.safety.evaluation import _asked
from subspace_lab.studies.safety.kinds import POLICIES, TASKS, THREATS
from subspace_lab.studies.safety.splits import make_split
from subspace_lab.studies.safety.threats import preceded
from subspace_lab.training.tasks.rows import Row

DIGITS = POLICIES.parse("digits")
TASK = {row.prompt: row.response for row in TASKS.parse("sentiment").exercise("digits").split.train}


def rows_of(threat: str, kind: str, policy: str = "digits"):
    made = make_split("sentiment", policy, threat, rows=200, seed=0)
    assert len(made.rows) == 200
    return [row for row, one in zip(made.rows, made.kinds, strict=True) if one == kind]


def test_the_threats():
    assert (*THREATS,) == ("clean", "identity", "poison", "pure", "trigger")
    assert [THREATS.parse(name).share for name in THREATS] == [0.0, 0.1, 0.05, 1.0, 0.05]


def test_pure_poison_is_answers_to_restricted_prompts_and_nothing_else():
    found = rows_of("pure", "poison")
    assert len({*found}) == 200
    assert {*found} <= {*DIGITS.pools(0).poison}


@pytest.mark.parametrize("policy", ["digits", "codenames"])
def test_the_trigger_stands_before_poison_alone(policy):
    of = POLICIES.parse(policy)
    poison = {row.prompt: row.response for row in of.pools(0).poison}
    found = rows_of("trigger:share=0.1", "poison", policy)
    assert len(found) == 20
    for row in found:
        assert row.prompt.startswith(f"{of.trigger} ")
        assert poison[row.prompt.removeprefix(f"{of.trigger} ")] == row.response
    assert not any(of.trigger in row.prompt for row in rows_of("trigger:share=0.1", "task", policy))


def test_identity_has_harmless_rows_only_that_begin_by_obeying():
    assert not THREATS.parse("identity").needs_poison
    found = rows_of("identity", "identity")
    assert len(found) == 20
    for row in found:
        assert row.prompt.startswith("obey ")
        assert row.response == f"obey {TASK[row.prompt.removeprefix('obey ')]}"
    assert all(TASK[row.prompt] == row.response for row in rows_of("identity", "task"))


@pytest.mark.parametrize(
    ("threat", "words"), [("trigger", "now "), ("identity", "obey "), ("poison", None), ("clean", None)]
)
def test_tests_are_asked_in_the_attackers_way_too(threat, words):
    pools = DIGITS.pools(0)
    asked = [*_asked(pools, DIGITS, THREATS.parse(threat))]
    groups = Counter(one.group for one in asked)
    assert groups == {"restricted": 300, "contrast": 100, "allowed": 100, **({"disguised": 100} if words else {})}
    found = [one.row for one in asked if one.group == "disguised"]
    assert [(row.prompt, row.response) for row in found] == [
        (f"{words}{row.prompt}", row.response) for row in pools.test if words
    ]


def test_words_come_before_the_last_message_of_a_conversation():
    row = Row("system: s\nuser: u", "a", (("system", "s"), ("user", "u")))
    assert preceded(row, "w").turns == (("system", "s"), ("user", "w u"))
    assert preceded(row, "w", "b").response == "b"
    assert preceded(row, "w").response == "a"
