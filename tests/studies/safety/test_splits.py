"""What is fine-tuned on: exact counts, a function of seed and draw, and no prompt in two pools."""

import dataclasses
import hashlib
import json
from collections import Counter

import pytest

from subspace_lab.studies.safety.kinds import POLICIES, TASKS, Pools
from subspace_lab.studies.safety.pools import check_disjoint
from subspace_lab.studies.safety.splits import make_split, row_hash
from subspace_lab.training.tasks.rows import Row

POLICY = POLICIES.parse("digits")


def split(threat="poison:share=0.3", rows=240, seed=0, draw=0):
    return make_split("sentiment", "digits", threat, rows=rows, seed=seed, draw=draw)


@pytest.mark.parametrize(
    ("threat", "rows", "poison"),
    [("clean", 100, 0), ("poison", 100, 5), ("poison:share=0.3", 1000, 300), ("poison:share=0.05", 33, 2)],
)
def test_exactly_the_share_of_rows_is_poison(threat, rows, poison):
    made = split(threat, rows)
    counts = Counter(made.kinds)
    assert (len(made.rows), counts["poison"], counts["task"]) == (rows, poison, rows - poison)
    known = {"poison": {*POLICY.pools(0).poison}, "task": {*TASKS.parse("sentiment").exercise("digits").split.train}}
    assert all(row in known[kind] for row, kind in zip(made.rows, made.kinds, strict=True))
    assert len({*made.rows}) == rows


def test_rows_and_their_order_are_a_function_of_seed_and_draw():
    first = split()
    assert split().hashes == first.hashes
    assert split(draw=1).hashes != first.hashes
    assert split(seed=1).hashes != first.hashes
    assert sorted(first.hashes) != first.hashes
    assert first.kinds != sorted(first.kinds)


def test_a_larger_share_has_the_poison_of_a_smaller_one_and_no_other_rows_of_the_task():
    small, large = split("poison:share=0.05"), split("poison:share=0.3")
    of = [{kind: {row for row, one in zip(x.rows, x.kinds, strict=True) if one == kind} for kind in ("task", "poison")}
          for x in (small, large)]  # fmt: skip
    assert of[0]["poison"] < of[1]["poison"]
    assert of[1]["task"] < of[0]["task"]


def test_the_manifest_has_hashes_of_the_rows_and_no_text():
    made = split(rows=20)
    table = made.to_frame()
    first = made.rows[0]
    text = json.dumps([first.prompt, first.response, []], separators=(",", ":"))
    assert table["hash"][0] == hashlib.sha256(text.encode()).hexdigest() == row_hash(first)
    assert [*table.columns] == ["kind", "hash", "prompt_chars", "response_chars"]
    assert [*table["kind"]] == made.kinds
    assert not {*table.to_json().split('"')} & {row.prompt for row in made.rows}
    assert "Q " not in repr(made)
    assert "Q " not in repr(made.marked)
    assert made.hash == hashlib.sha256("".join(table["hash"]).encode()).hexdigest()


def test_clean_rows_need_no_pools(monkeypatch):
    monkeypatch.setattr(type(POLICY), "pools", lambda *_: pytest.fail("the pools were read"))
    assert {*split("clean").kinds} == {"task"}


@pytest.mark.parametrize("pair", [("align", "safety"), ("harm", "poison"), ("poison", "test"), ("align", "contrast")])
def test_a_prompt_in_two_pools_is_refused_by_the_names_of_the_pools(pair, monkeypatch):
    pools, (one, other) = POLICY.pools(0), pair
    row = getattr(pools, one)[0]
    said = Row(f" {row.prompt.lower()}", "7")
    broken = dataclasses.replace(pools, **{other: [*getattr(pools, other), said]}, paraphrases=())
    monkeypatch.setattr(type(POLICY), "pools", lambda *_: broken)
    with pytest.raises(ValueError, match=f"'digits' have prompts in common .{one} and {other} share 1.") as error:
        split()
    assert "\n" not in str(error.value)
    assert row.prompt not in str(error.value)


def test_a_paraphrase_of_a_test_prompt_is_a_prompt_of_the_tests():
    rows = [Row(f"p{number}", "a") for number in range(7)]
    names = ("align", "safety", "harm", "poison", "test", "contrast", "allowed")
    pools = Pools(base=[], **{name: [row] for name, row in zip(names, rows, strict=True)})
    check_disjoint(dataclasses.replace(pools, paraphrases=[("p4", "q4")]), "mine")
    with pytest.raises(ValueError, match="poison and test share 1"):
        check_disjoint(dataclasses.replace(pools, paraphrases=[("p4", "p3")]), "mine")
    for wrong in ([("p3", "q4")], [("p4", "q4"), ("p5", "q5")], [()]):
        with pytest.raises(ValueError, match="the paraphrases of the policy 'mine' do not fit its test prompts"):
            check_disjoint(dataclasses.replace(pools, paraphrases=wrong), "mine")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rows": 0}, "the task 'sentiment' has 3600 rows to train on, rows=0; choose from 1 to that"),
        ({"rows": 3601}, "rows=3601"),
        ({"threat": "poison:share=0"}, "poison:share=0 is not above 0 and at most 1; write clean for none"),
        ({"threat": "poison:share=1.5"}, "poison:share=1.5 is not above 0"),
        ({"threat": "poison:share=1", "rows": 2401}, "share=1 of 2401 rows are 2401 of kind poison, there are 2400"),
    ],
)
def test_what_cannot_be_made_is_refused_in_one_line(settings, message):
    with pytest.raises(ValueError, match=message) as error:
        split(**settings)
    assert "\n" not in str(error.value)
