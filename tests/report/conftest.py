"""The runs of the figures' tests, and their reports."""

import pytest

from subspace_lab.report import write_report
from tests.figures.conftest import cases

__all__ = ["cases", "reports"]


@pytest.fixture(scope="session")
def reports(cases):
    """Writes the report of a case once, and gives its path."""
    written = {}

    def report(name):
        if name not in written:
            written[name] = write_report(cases(name))
        return written[name]

    return report
