"""Labels that stand beside what they name: null lines, ends of lines, names of layers."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.transforms import offset_copy

from subspace_lab.figures.style import INK, NULL_DASHES, PAPER, Layout

_CHARACTERS = 14.5  # to an inch of a legend, beside its handles


def null_lines(ax: Axes, nulls: Sequence[tuple[str, float, int]]) -> None:
    """Null references as labelled horizontal lines; the labels keep away from what was drawn before and each other.

    A label for which there is no room is left out; the caption explains the lines.

    Args:
        ax: Where to draw, its limits final.
        nulls: Label, value (it follows the label) and which of the null styles; equal values share a line.
    """
    low, high = ax.get_ylim()
    (across, up), size = _points(ax), float(matplotlib.rcParams["font.size"])
    merged: dict[float, tuple[str, float, int]] = {}
    for text, value, dashes in nulls:
        at = round((value - low) / (high - low), 3)
        merged[at] = ("both nulls", value, dashes) if at in merged else (text, value, dashes)
    obstacles = [_drawn_points(ax)] + [np.array([(x, at) for x in (0, 0.5, 1)]) for at in merged]
    for at, (text, value, dashes) in merged.items():
        ax.axhline(value, color=INK, linewidth=0.9, linestyle=NULL_DASHES[dashes], zorder=1.5)
        label = f"{text} {value:.2f}"
        width, height = 0.55 * len(label) * size / across, 1.2 * size / up
        room, end, centre = _clear_place(np.concatenate(obstacles), at, width, height)
        if room > height / 2:
            _label(ax, label, end, value, above=centre > at)
            obstacles.append(np.array([(end, centre + shift * height) for shift in (-0.5, 0, 0.5)]))


def _label(ax: Axes, text: str, x: float, y: float, *, above: bool) -> None:
    note = ax.annotate(
        text,
        (x, y),
        xycoords=ax.get_yaxis_transform(),
        xytext=(0, 2.5 if above else -2.5),
        textcoords="offset points",
        ha="left" if x < 0.5 else "right",
        va="bottom" if above else "top",
        bbox={"facecolor": PAPER, "alpha": 0.75, "linewidth": 0, "pad": 0.6},
        zorder=1.6,  # what was measured stays in front
    )
    note.set_in_layout(False)


def _clear_place(obstacles: np.ndarray, at: float, width: float, height: float) -> tuple[float, float, float]:
    """How much room the best place for a label has, at which end (0.02 or 0.98), and the height of its middle."""
    places = []
    for end in (0.98, 0.02):
        near = obstacles[np.abs(obstacles[:, 0] - end) < width + 0.02, 1]
        near = near[np.abs(near - at) > 1e-3]  # not the line itself
        for centre in (at + 0.85 * height, at - 0.85 * height):
            inside = height / 2 < centre < 1.02 - height / 2
            places.append((float(np.abs(near - centre).min(initial=1.05 * height)) if inside else 0.0, end, centre))
    return max(places, key=lambda place: place[0])


def _points(ax: Axes) -> tuple[float, float]:
    """About how wide and how high axes will be, in points, before the layout is known."""
    figure, grid = ax.get_figure(root=True), ax.get_gridspec()
    assert figure is not None
    assert grid is not None
    return 0.8 * 72 * figure.get_figwidth() / grid.ncols, 0.75 * 72 * figure.get_figheight() / grid.nrows


def _drawn_points(ax: Axes) -> np.ndarray:
    """Points along the lines and the edges of bands, as fractions of the axes."""
    paths = [line.get_path().interpolated(8) for line in ax.lines if line.get_transform() == ax.transData]
    paths += [path for band in ax.collections for path in band.get_paths()]
    vertices = np.concatenate([np.empty((0, 2)), *(path.vertices for path in paths)])
    fractions: np.ndarray = (ax.transData - ax.transAxes).transform(vertices)
    return fractions


def end_labels(ax: Axes, ends: dict[str, tuple[float, float, str]], layout: Layout) -> None:
    """Names to the right of where lines end, moved apart where they would overlap.

    Args:
        ax: Where to draw, its limits final and its y axis linear.
        ends: Name -> x and y of the line's end, and its colour.
        layout: The size of the figure.
    """
    low, high = ax.get_ylim()
    need = 1.25 * (layout.font_size - 1) / _points(ax)[1]
    beside = offset_copy(ax.transAxes, ax.get_figure(root=True), x=12, units="points")
    names = sorted(ends, key=lambda name: ends[name][1])
    wanted = np.array([(ends[name][1] - low) / (high - low) for name in names])
    for name, place in zip(names, _apart(wanted, need), strict=True):
        x, y, colour = ends[name]
        ax.annotate(
            shortened(name, 16),
            (x, y),
            xytext=(1, place),
            textcoords=beside,
            va="center",
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.7,
                "shrinkA": 1,
                "shrinkB": 2,
                "relpos": (0, 0.5),
            },
            annotation_clip=False,
        )


def _apart(wanted: np.ndarray, need: float) -> np.ndarray:
    """Ascending places at least ``need`` apart: what would overlap becomes a block about the mean of what it wants."""
    blocks: list[np.ndarray] = []
    for place in wanted:
        block = np.array([place])
        while blocks and _spread(blocks[-1], need)[-1] + need > _spread(block, need)[0]:
            block = np.concatenate([blocks.pop(), block])
        blocks.append(block)
    return np.concatenate([np.empty(0), *(_spread(block, need) for block in blocks)])


def _spread(block: np.ndarray, need: float) -> np.ndarray:
    """Places ``need`` apart about the mean of the wanted ones, within the axes as far as they fit."""
    places = block.mean() + need * (np.arange(len(block)) - (len(block) - 1) / 2)
    moved: np.ndarray = places - max(0.0, places[-1] - 1) + max(0.0, -places[0])
    return moved


def wrapped(text: str, layout: Layout) -> str:
    """A text in a legend, in lines that fit across the figure.

    Args:
        text: The text.
        layout: The size of the figure.

    Returns:
        The text with line breaks.
    """
    return textwrap.fill(text, int(_CHARACTERS * layout.width))


def shortened(name: str, length: int) -> str:
    """A name that fits over a panel: printable, and cut in the middle where it is too long.

    Args:
        name: Any text.
        length: Characters it may have.

    Returns:
        The text.

    >>> shortened("a_module_with_a_rather_long_name", 21)
    'a_module_w…_long_name'
    """
    printable = "".join(character if character.isprintable() else "\ufffd" for character in name)
    half = (length - 1) // 2
    return printable if len(name) <= length else f"{printable[:half]}…{printable[-half:]}"
