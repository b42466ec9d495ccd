"""The profiles with models and texts of a few kilobytes, and what one call of the smoke profile left."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from subspace_lab.studies.finetuning import fine_tune, profiles
from tests.training.tasks.small_models import CHAT, save_causal
from tests.training.tiny import write_text


@pytest.fixture(scope="session", autouse=True)
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of these tests alone; a text of words, and a tiny model in the place of SmolLM2."""
    directory = tmp_path_factory.mktemp("finetuning")
    text, model = str(write_text(directory / "words.txt")), str(save_causal(directory / "model", chat=CHAT))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(directory / "cache"))
        patch.delenv("WORLD_SIZE", raising=False)
        for name, one in list(profiles.PROFILES.items()):
            config = dataclasses.replace(one.config, model=model) if one.config.model else one.config
            patch.setitem(profiles.PROFILES, name, dataclasses.replace(one, config=config, text=text))
        yield


@pytest.fixture(scope="session")
def whole(small: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smoke profile with one task."""
    path = tmp_path_factory.mktemp("whole") / "study"
    smoke = profiles.PROFILES["smoke"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(profiles.PROFILES, "smoke", dataclasses.replace(smoke, tasks=("sentiment",)))
        fine_tune(path, profile="smoke", workers=2)
    return path
