"""The tiny model, its text and a cache of the tests' own."""

from tests.studies.optimizers.conftest import settings, world  # noqa: F401
from tests.training.conftest import _tiny_world, session_cache, text  # noqa: F401
