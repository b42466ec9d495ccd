"""One file per figure: each reads tables, draws, and computes nothing but the means that it shows.

Every figure's file has a ``TITLE``, a ``CAPTION`` (what it shows, how to read it, when it misleads) and
``draw(run, layout=PAGE)``, which returns a matplotlib Figure or raises `AbsentError` with the reason.
"""

from subspace_lab.figures.all import FIGURES, TASK_FIGURES, draw_all
from subspace_lab.figures.loss import FIGURES as LOSS_FIGURES
from subspace_lab.figures.style import NARROW, PAGE, WIDE, Layout, style
from subspace_lab.figures.tables import AbsentError

__all__ = [
    "FIGURES",
    "LOSS_FIGURES",
    "NARROW",
    "PAGE",
    "TASK_FIGURES",
    "WIDE",
    "AbsentError",
    "Layout",
    "draw_all",
    "style",
]
