"""Processes that hang are begun again once and say where they were, and none is left."""

import subprocess
import time
from pathlib import Path

import psutil
import pytest
import torch

from tests import launch


def hang(directory):
    """Hang until so many processes have begun as the file in the directory says; then tell."""
    with Path(directory, "begun").open("a") as file:
        file.write(".")
    if len(Path(directory, "begun").read_text()) <= int(Path(directory, "hangs").read_text()):
        time.sleep(600)
    torch.distributed.init_process_group("gloo")
    launch.tell("here", directory)


def told(directory):
    """What came of it, or that nothing did."""
    try:
        return launch.told_by(f"{__name__}:hang", 2, directory)
    except subprocess.TimeoutExpired:
        return "nothing"


@pytest.mark.slow
@pytest.mark.parametrize(("hangs", "expected"), [(2, ["here", "here"]), (99, "nothing")])
def test_a_hang_has_one_more_chance(hangs, expected, tmp_path, monkeypatch):
    (tmp_path / "hangs").write_text(str(hangs))
    monkeypatch.setattr(launch, "PATIENCE_S", 25)
    with pytest.warns(UserWarning, match="hung and are begun again") as said:
        assert told(tmp_path) == expected
    assert str(said[0].message).count("in hang\n") == 2  # once per process
    left = [process.info["cmdline"] for process in psutil.process_iter(["cmdline"])]
    assert not [line for line in left if str(tmp_path) in str(line)]
