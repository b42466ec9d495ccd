"""What a training says: few plain lines in a file, a bar on a terminal, nothing in other processes."""

import io
import re

import pytest
from rich.console import Console

from subspace_lab.training import progress
from subspace_lab.training.progress import TrainingProgress


@pytest.fixture
def output(monkeypatch):
    """A function that makes a stream stand for standard error, a terminal or not."""

    def take(*, terminal):
        stream = io.StringIO()
        options = {"file": stream, "force_terminal": terminal, "width": 100}
        monkeypatch.setattr(progress, "Console", lambda *, stderr, quiet: Console(quiet=quiet, **options))
        return stream

    return take


def tell(*, start=0, steps=1000, shown=True):
    with TrainingProgress(start=start, steps=steps, shown=shown) as told:
        for step in range(start, steps):
            told.show(step, 8 - step / 1000, 4.5 if step == 7 else None, 0.25)


def test_a_file_gets_about_twenty_lines_and_every_evaluation(output):
    stream = output(terminal=False)
    tell()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "step 0/1000: loss 8.000, 0.25 s/step"
    assert lines[1] == "step 7/1000: loss 7.993, held-out 4.500, 0.25 s/step"
    assert lines[-1] == "step 999/1000: loss 7.001, 0.25 s/step"
    assert len(lines) == 22


def test_a_short_run_gets_a_line_for_each_step_and_a_resumed_one_says_so(output):
    stream = output(terminal=False)
    tell(start=3, steps=6)
    starts = [line.partition(":")[0] for line in stream.getvalue().splitlines()]
    assert starts == ["resuming at step 3/6", "step 3/6", "step 4/6", "step 5/6"]


def test_a_terminal_gets_a_bar_and_the_evaluations_above_it(output):
    stream = output(terminal=True)
    tell(steps=40)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert "40/40" in text
    assert "loss 7.961, 0.25 s/step" in text
    assert "step 7/40: loss 7.993, held-out 4.500" in text
    assert "step 8/40:" not in text


@pytest.mark.parametrize("terminal", [False, True])
def test_other_processes_keep_quiet(output, terminal):
    stream = output(terminal=terminal)
    tell(shown=False, start=1)
    assert stream.getvalue() == ""
