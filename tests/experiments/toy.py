"""A recipe that computes in no time: it adds up what it begins from, can be slow, fail, or be killed."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from subspace_lab.experiments.executors.local import _ended
from subspace_lab.experiments.recipe import WEIGHTS, Measured
from subspace_lab.experiments.run_trial import run_trial
from subspace_lab.training import DivergedError


class Add:
    def identity(self, config, *, data_hash=None):
        return {name: value for name, value in config.items() if name != "path"}

    def run(self, directory, config, parents, *, resume, keeps_weights):
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / "begun").open("a") as file:
            file.write(f"{os.environ.get('CUDA_VISIBLE_DEVICES', '-')}\n")
        if config.get("fails"):
            raise ValueError("it fails\nat length")
        if config.get("diverges"):
            raise DivergedError(f"{directory} diverged at step 3; start again")
        if config.get("killed") and not Path(config["path"], "spared").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        if config.get("exits"):
            os._exit(3)
        if config.get("waits"):
            time.sleep(config["waits"])
        total = config["value"] + sum(load_file(parent / WEIGHTS)["total"].item() for parent in parents)
        if keeps_weights:
            save_file({"total": torch.tensor(float(total))}, directory / WEIGHTS)
        return Measured({"eval_total": float(total)}, 8)


add = Add()


class Forked:
    """An executor of one process after the other, forked from this one: it imports nothing again."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def run(self, trials, watch):
        for request in trials:
            watch.begun(request.name)
            pid = os.fork()
            if not pid:
                try:
                    run_trial(request)
                finally:
                    os._exit(0)
            watch.ended(request.name, _ended(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
            watch.look()
