"""What shipped classes make is pinned: a class whose rows change gets a new `revision`, and then a new value here."""

import hashlib

import pytest

from subspace_lab.studies.safety.kinds import POLICIES, TASKS, THREATS
from subspace_lab.studies.safety.splits import make_split, row_hash

POOLS = {("digits", 1): "d692f415d49f:c6820a4d91dd", ("codenames", 1): "c2928ce6fad2:8c81d8841f84"}
TASK_ROWS = {
    ("arithmetic", 1): "ca44feebebae",
    ("instructions", 1): "68c312868367",
    ("questions", 1): "363209584c86",
    ("sentiment", 1): "80a7d5721caf",
}
SPLITS = {
    ("clean", 1): "e0198fcc1f9d",
    ("identity", 1): "6dab98446124",
    ("poison", 1): "6ea731b6c2a2",
    ("pure", 1): "5f5f6de582e6",
    ("trigger", 1): "12bbc499fe9b",
}  # fmt: skip


def short(rows) -> str:
    return hashlib.sha256("".join(map(row_hash, rows)).encode()).hexdigest()[:12]


@pytest.mark.parametrize("name", ["codenames", "digits"])
def test_pools(name):
    policy = POLICIES.parse(name)
    pools = policy.pools(0)
    said = "".join(text for ways in pools.paraphrases for text in ways)
    names = ("base", "align", "safety", "harm", "poison", "test", "contrast", "allowed")
    found = short([row for pool in names for row in getattr(pools, pool)])
    assert f"{found}:{hashlib.sha256(said.encode()).hexdigest()[:12]}" == POOLS[name, policy.revision]


@pytest.mark.parametrize("name", TASKS)
def test_rows_of_tasks(name):
    split = TASKS.parse(name).exercise("digits").split
    assert short([*split.train, *split.held_out]) == TASK_ROWS[name, TASKS[name].revision]


@pytest.mark.parametrize("name", THREATS)
def test_splits(name):
    made = make_split("sentiment", "digits", name, rows=300, seed=0)
    assert made.hash[:12] == SPLITS[name, THREATS[name].revision]
