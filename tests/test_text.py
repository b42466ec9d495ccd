"""Values that words spell, and names that are near."""

from __future__ import annotations

import pytest

from subspace_lab._text import nearest, nearest_to_pattern, plain_value


@pytest.mark.parametrize(
    ("word", "value"),
    [("5", 5), ("-1", -1), ("0.05", 0.05), ("1e-3", 1e-3), ("none", None), ("None", None), ("true", True),
     ("False", False), ("exact", "exact"), (0.5, 0.5), (None, None), (True, True), (0, 0)],
    ids=str,
)  # fmt: skip
def test_a_word_is_the_value_that_it_spells(word: object, value: object) -> None:
    plain = plain_value(str(word))
    assert (plain, type(plain)) == (value, type(value))


def test_the_nearest_name_is_known_or_none() -> None:
    assert nearest("graswalk", ["galore", "grasswalk"]) == "grasswalk"
    assert nearest("xyz", ["galore"]) == "galore"
    assert nearest("xyz", ["galore"], at_least=0.6) is None
    assert nearest("x", []) is None
    assert nearest_to_pattern("*.x", []) == "none"
