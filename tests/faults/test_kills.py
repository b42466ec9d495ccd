"""Killed, interrupted or out of disk at random instants: what is left is sound, and the work ends the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.faults
@pytest.mark.kill
def test_signals_and_full_disks_leave_what_is_sound(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.faults.kill_harness", str(tmp_path), "16", "0"]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["SIGKILL"] + seen["SIGTERM"] + seen["SIGINT"] >= 12
    assert seen["sound"] == 16
    assert seen["full disk"] == 4
