"""Every test has a cache of its own session, and the tiny model."""

import os
from pathlib import Path

import pytest

from subspace_lab.training.gguf_files import converted
from subspace_lab.training.smollm2 import fetched
from tests.training import tiny

_CACHE_OF_THE_USER = os.environ.get("XDG_CACHE_HOME", "")  # fixtures of other folders change it for a whole session


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _tiny_world(session_cache, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(session_cache))
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setitem(tiny.PRESETS, "tiny", tiny.TINY)


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """A text file."""
    return tiny.write_text(tmp_path_factory.mktemp("text") / "words.txt")


@pytest.fixture(scope="session")
def smollm2_directory() -> Path:
    """The directory of SmolLM2 in the user's own cache; a test without it is skipped, and fails in CI."""
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_CACHE_HOME", _CACHE_OF_THE_USER)
            return converted(fetched())
    except ValueError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))
