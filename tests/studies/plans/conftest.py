"""The text and the settings of the comparisons' tests."""

from tests.studies.optimizers.conftest import settings, world  # noqa: F401
