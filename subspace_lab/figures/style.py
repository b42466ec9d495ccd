"""How every figure looks: sizes, colours, line styles, and the decorator that applies them.

Colours are those of Okabe and Ito without black and yellow, and a brown that stays apart from them under the three
common colour deficiencies; each comes with its own marker and dash pattern, so that no reading rests on colour alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import matplotlib
from matplotlib.figure import Figure
from tueplots import axes as tueplots_axes

INK = "#1b1e23"  # text, axes and null lines
PAPER = "#fefefe"  # what is behind a label
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#7a5230")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
DASHES: tuple[Any, ...] = ("-", (0, (6, 1.5)), (0, (4, 1, 1, 1)), (0, (2.5, 1)))
NULL_DASHES: tuple[Any, ...] = ((0, (4, 2)), (0, (1, 1.6)))  # own basis of noise, fixed basis


@dataclass(frozen=True)
class Layout:
    """The size of a figure and how its panels flow.

    Attributes:
        width: Width in inches.
        columns: Panels side by side, at most.
        font_size: Size of the axis labels in points; tick labels and notes are a point smaller.
        titled: Whether the title stands in the figure (a report has its own heading).
    """

    width: float = 7.2
    columns: int = 4
    font_size: float = 8.5
    titled: bool = True

    def at_most(self, columns: int) -> Layout:
        """The same with no more than so many panels side by side, and with one at least."""
        return replace(self, columns=max(1, min(columns, self.columns)))


PAGE = Layout()
WIDE = replace(PAGE, titled=False)
NARROW = Layout(width=3.6, columns=2, font_size=8, titled=False)


Source = TypeVar("Source", contravariant=True)  # what a figure is drawn from: a run, the tables of a comparison


class Draw(Protocol[Source]):
    """The ``draw`` of a figure's file."""

    def __call__(self, source: Source, /, layout: Layout = PAGE) -> Figure:
        """Draw the figure.

        Args:
            source: A run that was analysed, or the tables of a comparison.
            layout: The size of the figure.

        Returns:
            The figure, laid out; `AbsentError` is raised where the source does not hold what it takes.
        """
        ...


def style(layout: Layout) -> AbstractContextManager[None]:
    """The matplotlib settings of all figures, in force within a ``with`` block: while drawing and while saving.

    Args:
        layout: The size of the figure.

    Returns:
        The context.
    """
    size, small = layout.font_size, layout.font_size - 1
    settings: Any = {
        **tueplots_axes.lines(base_width=0.6, line_base_ratio=2.2),
        **tueplots_axes.color(base=INK, face="none"),
        **tueplots_axes.spines(right=False, top=False),
        **tueplots_axes.grid(grid_alpha=0.13),
        **tueplots_axes.legend(frameon=False),
        **tueplots_axes.tick_direction(x="out", y="out"),
        "font.family": "DejaVu Sans",
        "text.hinting": "none",  # so that text is as wide at every resolution
        "font.size": small,
        "axes.labelsize": size,
        "axes.titlesize": size,
        "axes.titlelocation": "left",
        "axes.titlepad": 4,
        "axes.grid": True,
        "figure.labelsize": size,
        "figure.titlesize": size + 2,
        "figure.titleweight": "bold",
        "legend.fontsize": small,
        "legend.handlelength": 2.6,
        "legend.columnspacing": 1.4,
        "lines.markersize": 3.2,
        "xtick.labelsize": small,
        "ytick.labelsize": small,
        "text.parse_math": False,  # a dollar sign in a layer's name is a dollar sign
        "pdf.fonttype": 42,
        "svg.fonttype": "none",
        "svg.hashsalt": "subspace_lab",
        "figure.facecolor": "none",
        "figure.constrained_layout.h_pad": 0.03,
        "figure.constrained_layout.w_pad": 0.03,
    }
    return matplotlib.rc_context(settings)


def styled_figure(title: str) -> Callable[[Callable[[Source, Layout], Figure]], Draw[Source]]:
    """Decorator of every ``draw``: the settings, the title and a layout that no longer moves.

    Args:
        title: The figure's title.

    Returns:
        What turns the function into a `Draw`.
    """

    def decorate(draw: Callable[[Source, Layout], Figure]) -> Draw[Source]:
        @functools.wraps(draw)
        def styled(source: Source, /, layout: Layout = PAGE) -> Figure:
            with style(layout):
                figure = draw(source, layout)
                if layout.titled:
                    figure.suptitle(title, x=0.01, ha="left")
                engine = figure.get_layout_engine()
                assert engine is not None
                engine.execute(figure)
                figure.set_layout_engine("none")
            return figure

        return styled

    return decorate


@dataclass(frozen=True)
class Picture:
    """A figure with the words that go with it.

    Attributes:
        title: Its title.
        caption: What it shows, how to read it, when it misleads.
        draw: Draws it from its source.
    """

    title: str
    caption: str
    draw: Draw[Any]


def picture(title: str, caption: str) -> Callable[[Callable[[Any, Layout], Figure]], Picture]:
    """Decorator that makes a `Picture` of the function that draws it.

    Args:
        title: The picture's title.
        caption: What it shows, how to read it, when it misleads.

    Returns:
        What turns the function into a `Picture`.
    """
    return lambda draw: Picture(title, caption, styled_figure(title)(draw))
