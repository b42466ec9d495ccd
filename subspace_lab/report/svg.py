"""Figures as inline SVG that follows the page: its colours, its font, and ids that are unique on it."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from typing import Any

from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from subspace_lab.figures.style import COLOURS, INK, PAPER, Layout, style

_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_REFERENCE = re.compile(r'(?:url\(#|href="#)([^)"]+)')
_DIGITS = re.compile(r"(\.[0-9]{2})[0-9]+")  # a hundredth of a point is finer than any screen
_COLOURS = {
    INK: "currentColor",
    PAPER: "var(--paper)",
    **{colour: f"var(--colour-{number})" for number, colour in enumerate(COLOURS)},
}


def inline_svg(figure: Figure, layout: Layout, prefix: str) -> Markup:
    """A figure as an ``<svg>`` element for the body of a page.

    Ink becomes ``currentColor`` and the palette ``var(--colour-0)``, ``var(--colour-1)``, ..., which the page's style
    defines for light and dark; text stays text in the page's font; what would reach beyond the figure (style,
    metadata) is dropped.

    Args:
        figure: From a figure's ``draw``.
        layout: The layout it was drawn with.
        prefix: Put before every id, so that several figures can share a page.

    Returns:
        The element.
    """
    buffer = io.BytesIO()
    canvas: Any = FigureCanvasSVG(figure)  # not savefig, which draws everything twice
    with style(layout):
        canvas.print_svg(buffer, metadata={"Date": None})
    text = buffer.getvalue().decode("utf-8")
    root = ElementTree.fromstring(text)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("metadata", "style")):
                parent.remove(child)
    kept = set(_REFERENCE.findall(text))
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        element.attrib = dict(_attributes(element, prefix, kept))
        element.text, element.tail = (part.strip() if part else part for part in (element.text, element.tail))
    root.attrib = {"viewBox": root.attrib["viewBox"], "aria-hidden": "true", "focusable": "false"}
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _attributes(element: ElementTree.Element, prefix: str, kept: set[str]) -> Iterator[tuple[str, str]]:
    """The attributes with unique ids (where anything refers to them), and references, colours, digits to match."""
    for name, value in element.attrib.items():
        if name == "id":
            if value in kept:
                yield name, prefix + value
        elif name == _HREF:
            yield "href", value.replace("#", f"#{prefix}", 1)
        elif name == "style":
            yield name, re.sub("#[0-9a-f]{6}", lambda match: _COLOURS.get(match[0], match[0]), value)
        elif name in {"d", "x", "y"}:
            yield name, _DIGITS.sub(r"\1", " ".join(value.split()))
        else:
            yield name, value.replace("url(#", f"url(#{prefix}")
