"""Figures as SVG elements of a page."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from subspace_lab.figures import FIGURES, NARROW
from subspace_lab.figures.style import COLOURS, INK, PAPER
from subspace_lab.report.svg import inline_svg


@pytest.fixture(scope="module")
def svg(cases):
    return str(inline_svg(FIGURES["tangent_spectrum"].draw(cases("one kind"), NARROW), NARROW, "tangent-"))


def test_it_is_one_well_formed_element_with_text_as_text(svg):
    root = ElementTree.fromstring(svg)
    assert root.tag == "svg"
    assert set(root.attrib) == {"viewBox", "aria-hidden", "focusable"}
    assert "q_proj" in [text.text for text in root.iter("text")]


def test_colours_follow_the_page(svg):
    assert not re.findall("|".join([INK, PAPER, *COLOURS]), svg)
    assert "currentColor" in svg
    assert "var(--colour-0)" in svg


def test_every_id_is_prefixed_and_every_reference_resolves(svg):
    ids = re.findall(r'\bid="([^"]+)"', svg)
    references = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', svg)
    assert len(ids) == len(set(ids)) > 0
    assert all(name.startswith("tangent-") for name in ids)
    assert {first or second for first, second in references} == set(ids)


def test_nothing_reaches_beyond_the_figure(svg):
    assert "<style" not in svg
    assert "<metadata" not in svg
    assert "http" not in svg


def test_numbers_keep_their_places():
    from subspace_lab.report.svg import _DIGITS

    assert _DIGITS.sub(r"\1", "M 10.98765 -0.123 L 3 44.5") == "M 10.98 -0.12 L 3 44.5"
