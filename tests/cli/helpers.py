"""What the tests of the commands share."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import subspace_lab as sl

COMMANDS = ("train", "compare", "analyze", "report", "verify", "recommend", "memory", "demo")


TABLES = {"energy", "spectrum", "spectrum_summary", "spectrum_null", "angles", "curvature"}


SETTINGS = """
--preset tiny --steps 12 --batch-size 2 --sequence-length 16 --lr 3e-3 --precision float32 --threads 1 --every 3
--checkpoint-every 4 --eval-every 5 --eval-batches 1
"""


TINY = SETTINGS.split()


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    status: int
    out: str
    err: str


Command = Callable[..., Outcome]


def without_drawing(patch: pytest.MonkeyPatch) -> None:
    """Figures and report take ten seconds to draw; here they are files with a word in them."""

    def written(run: sl.Run, name: str) -> Path:
        (run.path / name).write_text("written again")
        return run.path / name

    patch.setattr(sl.figures, "draw_all", lambda run: [written(run, "figures/loss.png")])
    patch.setattr(sl.report, "write_report", lambda run: written(run, "report.html"))


def press_ctrl_c_in(step: int, patch: pytest.MonkeyPatch) -> None:
    real = sl.GradientCapture.step

    def pressed(self: sl.GradientCapture, now: int) -> None:
        real(self, now)
        if now == step:
            signal.raise_signal(signal.SIGINT)

    patch.setattr(sl.GradientCapture, "step", pressed)
