"""A smoke profile on a small text of its own, and what one call of it left."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from subspace_lab.studies.grass_paper import profiles, regenerate
from subspace_lab.studies.grass_paper.profiles import Profile
from tests.training.tiny import write_text


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Profile]:
    """The smoke profile, on a text that is tokenized in no time."""
    directory = tmp_path_factory.mktemp("evidence")
    smoke = profiles.PROFILES["smoke"]
    text = write_text(directory / "words.txt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(directory / "cache"))
        patch.delenv("WORLD_SIZE", raising=False)
        changed = dataclasses.replace(smoke, config=dataclasses.replace(smoke.config, data=str(text)))
        patch.setitem(profiles.PROFILES, "smoke", changed)
        yield changed


@pytest.fixture(scope="session")
def whole(small: Profile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All experiments of the smoke profile."""
    path = tmp_path_factory.mktemp("whole") / "figures"
    regenerate(path, profile=small.name, workers=2)
    return path


@pytest.fixture
def clone(whole: Path, tmp_path: Path) -> Path:
    """What a fresh clone has of it: neither run directories nor pictures."""
    path = tmp_path / "figures"
    path.mkdir()
    for name in ("evidence.json", "results.parquet", "curves.parquet"):
        shutil.copy(whole / name, path)
    shutil.copytree(whole / "tables", path / "tables")
    return path
