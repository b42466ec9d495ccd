"""What a test registers is gone after its module."""

from __future__ import annotations

import pytest

from tests.studies.safety.registered import forget_plugins


@pytest.fixture(scope="module", autouse=True)
def _shipped_only():
    yield
    forget_plugins()
