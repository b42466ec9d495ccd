"""The numbers in the examples of the concept pages are those that come out."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT

WITH_EXAMPLES = [page for page in PAGES if ">>> " in page.read_text(encoding="utf-8")]


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_examples(page: Path) -> None:
    failed, attempted = doctest.testfile(str(page), module_relative=False)
    assert attempted > 0
    assert failed == 0


def test_concepts_have_examples() -> None:
    concepts = set((ROOT / "docs" / "concepts").glob("*.md"))
    assert concepts
    assert concepts <= set(WITH_EXAMPLES)
