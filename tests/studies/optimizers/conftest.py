"""A text, a cache of these tests alone, and a comparison that takes seconds."""

import pytest

from subspace_lab.studies.optimizers import compare
from subspace_lab.training import TrainConfig
from tests.training.tiny import write_text

SETTINGS = {
    "preset": "llama-2m",  # the cells are processes of their own and know the real sizes only
    "vocab_size": 300,
    "steps": 12,
    "batch_size": 2,
    "sequence_length": 16,
    "eval_every": 5,
    "eval_batches": 1,
    "checkpoint_every": 2,
    "update_interval": 4,
    "precision": "float32",
}
METHODS, LRS = ["grasswalk", "adamw"], [1e-3, 1e20]


def by_label(results):
    """The results of a comparison by the first part of the names of their directories."""
    return results.set_index(results["cell"].str[:-13].rename("label"))


def directory(path, label):
    """Where a trial is, or will be, whose directory begins with its label."""
    found = [*(path / "cells").glob(f"{label}-????????????")]
    return found[0] if found else path / "cells" / label


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """The text; the environment of the cells is that of the session."""
    directory = tmp_path_factory.mktemp("comparison")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(directory / "cache"))
        patch.delenv("WORLD_SIZE", raising=False)
        yield write_text(directory / "words.txt")


@pytest.fixture
def settings(world):
    """Makes a configuration; changes override it."""
    return lambda **changes: TrainConfig(**{**SETTINGS, "data": str(world), **changes})


@pytest.fixture(scope="session")
def finished(world, tmp_path_factory):
    """Two methods, two seeds, a learning rate that does and one that diverges."""
    path = tmp_path_factory.mktemp("finished") / "sweep"
    config = TrainConfig(**SETTINGS, data=str(world))
    return compare(path, METHODS, lrs=LRS, seeds=2, config=config, workers=2)


@pytest.fixture(scope="session")
def whole(world, tmp_path_factory):
    """One cell that was not disturbed."""
    config = TrainConfig(**{**SETTINGS, "data": str(world), "steps": 40})
    return compare(tmp_path_factory.mktemp("whole") / "sweep", ["grasswalk"], lrs=[1e-3], seeds=1, config=config)
