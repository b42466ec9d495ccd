"""The memory report of a model in shards, against what each process holds, to the byte."""

import pytest
from torch import nn

from subspace_lab import optim
from tests.launch import told_by
from tests.optim.sharded.memory import KINDS, REPORTED
from tests.optim.test_faults import message_of

every_kind = pytest.mark.parametrize(
    ("size", "kind"), [(size, kind) for size, kinds in KINDS.items() for kind in kinds]
)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What the processes told, by how many they are."""
    return {size: told_by("tests.optim.sharded.memory:work", size, tmp_path_factory.mktemp("of")) for size in KINDS}


@pytest.mark.slow
@every_kind
@pytest.mark.parametrize("name", ["AdamW", *REPORTED])
def test_each_process_holds_what_its_report_says(name, size, kind, found):
    """Also with the side that is not sharded, where there is one."""
    for of_process in found[size]:
        for case in (f"{kind}/{name}", f"{kind}/{name}/side"):
            if case in of_process:
                assert of_process[case]["reported"] == of_process[case]["held"], case


@pytest.mark.slow
@pytest.mark.parametrize("size", KINDS)
def test_a_process_holds_less_than_the_whole_and_not_what_another_does(size, found):
    """So that the cases above can tell."""
    states = [of_process["fsdp/GrassWalk"]["held"]["states"] for of_process in found[size]]
    weights = found[size][0]["fsdp/GrassWalk"]["held"]["weights"]
    assert len(set(states)) > 1
    assert weights < found[size][0]["tp/GrassWalk"]["held"]["weights"]


def test_a_side_that_nothing_is_sharded_for_has_no_bytes():
    def report():
        optim.memory_report(nn.Linear(8, 6), "GrassWalk", rank=2, side="sharded")

    message_of(ValueError, report, "side='sharded'", "leave it out")
