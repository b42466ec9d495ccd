"""A run with three checkpoints."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import subspace_lab as sl
from tests.training import tiny


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Trained once; its text stays where it was."""
    directory = tmp_path_factory.mktemp("landscape")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(directory / "cache"))
        patch.delenv("WORLD_SIZE", raising=False)
        patch.setitem(tiny.PRESETS, "tiny", tiny.TINY)
        text = tiny.write_text(directory / "words.txt", num_words=30_000)
        yield sl.train(directory / "run", tiny.tiny_config(text, keep_checkpoints=3))


@pytest.fixture
def run_dir(trained: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(trained, tmp_path / "run"))
