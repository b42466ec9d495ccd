"""A world of their own for the commands, and a run that one of them trained."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from subspace_lab import cli
from tests.cli.helpers import TINY, Command, Outcome
from tests.training import tiny


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file of text; a cache of these tests alone, and the tiny size."""
    directory = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(directory / "cache"))
        patch.delenv("WORLD_SIZE", raising=False)
        patch.setitem(tiny.PRESETS, "tiny", tiny.TINY)
        yield tiny.write_text(directory / "words.txt")


@pytest.fixture
def command(world: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs a command line in this process."""
    monkeypatch.setattr("warnings.formatwarning", None)  # put back afterwards

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["subspace-lab", *map(str, arguments)])
        status = 0
        try:
            cli.main()
        except SystemExit as end:
            status = int(end.code or 0)
        return Outcome(status, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def finished(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that the command line trained."""
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    cli.app(["train", str(run_dir), "--data", str(world), *TINY], result_action="return_value")
    return run_dir


@pytest.fixture
def run_dir(finished: Path, tmp_path: Path) -> Path:
    """A copy of the trained run."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def small_demo(world: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options of a demo with a tiny model and a few words in the place of the standard library."""
    from subspace_lab.training import config, sources

    monkeypatch.setattr(config, "DEFAULT_PRESET", "tiny")
    words = sources.find_source(str(world))
    monkeypatch.setattr(sources, "_stdlib", lambda: words)
    return ["--steps", "12"]
