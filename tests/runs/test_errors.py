"""The one-line error."""

import pickle

import pytest

from subspace_lab.runs import RunError


@pytest.mark.parametrize("nasty", ["a\nb", "a\r\nb", "\x1b[31mred", "\u2028", "\udcff", "\x00"])
def test_nothing_breaks_the_line_or_steers_the_terminal(nasty):
    line = str(RunError(f"no layer {nasty}; choose another"))
    assert line.isprintable()
    assert line.encode("utf-8")
    assert len(line.splitlines()) == 1


def test_ordinary_text_is_left_alone():
    assert str(RunError("größer als 3 ≠ 'a\\b' [bold]")) == "größer als 3 ≠ 'a\\b' [bold]"


def test_survives_the_way_back_from_another_process():
    error = RunError("a\nb")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
