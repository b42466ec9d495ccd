"""What the processes of `test_sharded_methods` do: short trainings by low-rank methods, cut off and resumed."""

import shutil
from pathlib import Path

from torch import distributed

from subspace_lab.training import train
from subspace_lab.training.hooks import StepHooks
from subspace_lab.training.models import build_model
from tests.training import tiny

STEPS, KEPT, CUT = 6, 3, 5  # of a training; until its checkpoint; until it is cut off
RUN = {
    "steps": STEPS, "batch_size": 4, "accumulation": 1, "checkpoint_every": KEPT, "every": 2, "keep": "gram",
    "eval_every": 4, "eval_batches": 2, "lr": 1e-2,
}  # fmt: skip
RANKED = {"rank": 4, "update_interval": 2}
CASES = {
    **{name: {"optimizer": name, **RANKED} for name in ("grasswalk", "galore", "apollo", "frugal")},
    "ldadam": {"optimizer": "ldadam", "rank": 4},
    "badam": {"optimizer": "badam", "update_interval": 2},
    "clipped": {"optimizer": "grasswalk", **RANKED, "clip": 0.2, "accumulation": 2, "keep": "topk:4"},
    "adapter": {"optimizer": "adamw", "adapter": "lora", "adapter_rank": 2},
    "bfloat16": {"optimizer": "grasswalk", **RANKED, "precision": "bfloat16"},
}
SOME = ("clipped", "badam")  # which are trained in the other shardings


def config(root, name, **changes):
    """The configuration of a case."""
    return tiny.tiny_config(Path(root, "words.txt"), **{**RUN, **CASES[name], **changes})


def begun(run_dir, settings, **how):
    """A training in float64, where autocast leaves it that."""
    model = build_model(settings.resolved())
    return train(run_dir, settings, model=model if settings.precision == "bfloat16" else model.double(), **how)


def resumed(root, sharding, *directories):
    """What was cut off, resumed by this number of processes; the case is the first part of the name."""
    tiny.register()
    for name in directories:
        settings = config(root, name.partition("_")[0], sharding=sharding or None)
        begun(Path(root, name), settings, resume=True)


def one(root):
    """The runs of one process."""
    tiny.register()
    for name in CASES:
        begun(Path(root, f"{name}_one"), config(root, name))


def sharded(root, sharding, *names):
    """Of each case a whole run, one that is cut off and resumed, and a copy of what was cut off."""
    tiny.register()
    distributed.init_process_group("gloo")
    for name in names:
        settings = config(root, name, sharding=sharding)
        whole, cut, copy = (Path(root, f"{name}_{sharding}_{part}") for part in ("whole", "cut", "copy"))
        begun(whole, settings)
        try:
            begun(cut, settings, hooks=StepHooks(after=_cut_off))
        except ZeroDivisionError:
            distributed.barrier()
        if distributed.get_rank() == 0:
            shutil.copytree(cut, copy)
        distributed.barrier()
        begun(cut, settings, resume=True)


def _cut_off(step, _model):
    if step == CUT - 1:
        raise ZeroDivisionError
