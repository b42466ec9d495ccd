"""What a test registers is gone after its module, and what was registered before it."""

from __future__ import annotations

import pytest

from tests.studies.safety.registered import forget_plugins

collect_ignore = ["tiny.py"]  # a plug-in: looking for doctests in it would register its parts


@pytest.fixture(scope="module", autouse=True)
def _shipped_only():
    forget_plugins()
    yield
    forget_plugins()
