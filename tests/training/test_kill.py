"""``kill -9`` at random instants: nothing that was published is lost, and the run comes out the same."""

import json
import os
import subprocess
import sys

import pytest

from tests.training.test_processes import ENVIRONMENT


@pytest.mark.kill
@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_as_if_it_had_not_been(tmp_path):
    command = [sys.executable, "-m", "tests.training.kill_harness", str(tmp_path), "25", "0"]
    done = subprocess.run(command, env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["kills"] >= 25
    assert seen["finished"] >= 1
    assert len({*seen["resumed_at"]}) >= 4  # the kills hit early and late
    assert seen["verified"] > 20
