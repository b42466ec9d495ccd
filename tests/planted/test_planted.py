"""The planted faults still fit the code, and each names tests that are there; `plant` runs them."""

from __future__ import annotations

import pytest

from tests.planted.plant import ROOT, apply, named_tests, patches


def test_there_are_eighteen() -> None:
    assert len(patches()) >= 18


@pytest.mark.parametrize("name", patches())
def test_a_fault_can_still_be_planted(name: str) -> None:
    assert apply(name, ROOT, "--check") == ""
    for file in named_tests(name):
        assert (ROOT / file).is_file()
