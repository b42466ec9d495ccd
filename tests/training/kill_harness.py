"""Kills training processes at random instants: ``python -m tests.training.kill_harness DIR KILLS SEED``.

Everything is imported once and each training is a fork of this process, which computes nothing itself, so that a kill
costs half a second instead of seven. Prints what happened as JSON; any violation is an exception.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import torch

from subspace_lab.runs import Run
from subspace_lab.training import train
from subspace_lab.training.checkpoint import checkpoint_steps
from subspace_lab.training.tokens import load_tokens
from tests.training import tiny
from tests.training.test_resume import content


def begin(run_dir, config):
    """A process that trains, or goes on with it; it tells by its exit status whether it came to the end."""
    child = os.fork()
    if child:
        return child
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        train(run_dir, config, resume=(run_dir / "manifest.json").exists())
        os._exit(0)
    except BaseException:
        run_dir.with_name("failure.txt").write_text(traceback.format_exc())
        os._exit(1)


def end(child, directory):
    """Wait for a process; whether it was killed."""
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.waitstatus_to_exitcode(status) == 0, (directory / "failure.txt").read_text()
    return False


def main(directory, kills, seed):
    import transformers.models.llama.modeling_llama  # noqa: F401

    tiny.register()
    torch.set_num_threads(1)
    config = tiny.tiny_config(tiny.write_text(directory / "words.txt"), steps=40, every=2, checkpoint_every=3)
    cached = os.fork()
    if not cached:
        load_tokens(config.resolved())
        os._exit(0)
    os.waitpid(cached, 0)
    began = time.monotonic()
    end(begin(directory / "whole", config), directory)
    patience, expected = time.monotonic() - began, content(directory / "whole")

    draw, run, seen = random.Random(seed), 0, {"kills": 0, "finished": 0, "verified": 0, "resumed_at": []}
    while seen["kills"] < kills or not seen["finished"]:
        run_dir = directory / f"run-{run}"
        seen["resumed_at"].append((checkpoint_steps(run_dir) or [0])[-1])
        child = begin(run_dir, config)
        time.sleep(draw.uniform(0, patience / 2))
        os.kill(child, signal.SIGKILL)
        killed = end(child, directory)
        if killed and (checkpoint_steps(run_dir) or [0])[-1] < config.steps:
            seen["kills"] += 1
            seen["verified"] += Run.open(run_dir).verify() if (run_dir / "manifest.json").exists() else 0
        else:  # killed after its last checkpoint it is finished as well
            assert content(run_dir) == expected
            assert not [*run_dir.rglob("*.partial")]
            seen["finished"] += 1
            run += 1
    end(begin(directory / f"run-{run}", config), directory)
    assert content(directory / f"run-{run}") == expected
    print(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
