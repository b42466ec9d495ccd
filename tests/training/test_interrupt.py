"""The first Ctrl-C, as a terminal sees it."""

import signal
import sys

from subspace_lab.training.interrupt import catch_interrupt


def test_ctrl_c_shows_the_cursor_that_the_bar_hid_and_says_what_a_second_one_does(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    before = signal.getsignal(signal.SIGINT)
    with catch_interrupt() as interrupt:
        signal.raise_signal(signal.SIGINT)
        assert interrupt.asked
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == before
    shown = capsys.readouterr().err
    assert shown.startswith("\x1b[?25h")
    assert shown.endswith("press Ctrl-C again to stop at once (resuming then goes on from the last checkpoint)\n")
