"""What the processes of `test_sharding` do: trainings that are whole, cut off and resumed, or lose a process."""

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import torch
from torch import distributed

import subspace_lab as sl
from subspace_lab.training import RestoredCheckpoints, train, workers as of_workers
from subspace_lab.training.hooks import StepHooks
from subspace_lab.training.trainer import Trainer
from tests.training import tiny

STEPS, CUT = 8, 6
SETTINGS = {"steps": STEPS, "batch_size": 4, "every": 2, "keep": "full", "eval_every": 5, "eval_batches": 3}


def config(root, **changes):
    return tiny.tiny_config(Path(root, "words.txt"), **{**SETTINGS, **changes})


def one(root):
    """The run of one process."""
    tiny.register()
    train(Path(root, "one"), config(root))


def sharded(root, *shardings):
    """For each sharding a run, one that is cut off and resumed, and a copy of what was cut off."""
    tiny.register()
    distributed.init_process_group("gloo")
    size = distributed.get_world_size()
    for sharding in shardings:
        settings = config(root, sharding=sharding)
        whole, cut, copy = (Path(root, f"{sharding}_{size}_{name}") for name in ("whole", "cut", "copy"))
        train(whole, settings)
        try:
            train(cut, settings, hooks=StepHooks(after=_cut_off))
        except ZeroDivisionError:
            distributed.barrier()
        if distributed.get_rank() == 0:
            shutil.copytree(cut, copy)
        distributed.barrier()
        train(cut, resume=True)


def resumed(root, name):
    """A copy of what was cut off, resumed by this number of processes."""
    tiny.register()
    train(Path(root, name), resume=True)


def measured(root, name):
    """A run and its checkpoints, measured in one process."""
    tiny.register()
    run = sl.Run.open(Path(root, name), write=True)
    sl.analysis.analyze(run, rank=2, ranks=(2,))
    sl.analysis.hessian_of_run(run, RestoredCheckpoints.of(run), k=1, layers=("*.0.mlp.up_proj.weight",), sequences=1)


def lost(root, how):
    """The command, in which the second process is lost in some way at the third step."""
    tiny.register()
    of_workers._PATIENCE, of_workers._GRACE_S = of_workers.datetime.timedelta(seconds=5), 2.0
    update, rank = Trainer.update, int(os.environ["RANK"])

    def update_until_lost(self, step, norm):
        if step == 3 and rank == 1:
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "fails":
                raise ValueError("planted")
            time.sleep(15)  # hangs
            os._exit(0)
        if step == 3 and how == "killed":  # as torchrun does
            time.sleep(0.5)
            os.kill(os.getpid(), signal.SIGTERM)
        update(self, step, norm)

    Trainer.update = update_until_lost
    words = ["--preset", "tiny", "--data", str(Path(root, "words.txt")), "--precision", "float32", "--threads", "1"]
    words += ["--steps", "6", "--batch-size", "4", "--accumulation", "1", "--sequence-length", "16"]
    sys.argv = ["subspace-lab", "train", str(Path(root, f"lost_{how}")), *words, "--sharding", "fsdp"]
    from subspace_lab.cli import main

    main()


def _cut_off(step, _model):
    if step == CUT - 1:
        raise ZeroDivisionError


def largest_difference(one_tensors, others):
    """Over tensors by name, relative to the largest entry."""
    assert one_tensors.keys() == others.keys()
    return max(
        float((others[name].double() - tensor.double()).abs().max() / tensor.double().abs().max().clamp_min(1e-3))
        for name, tensor in one_tensors.items()
        if torch.is_tensor(tensor) and tensor.numel()
    )
