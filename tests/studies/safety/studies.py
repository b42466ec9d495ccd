"""A study of seconds, and executors that run its jobs in processes forked from the tests."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import transformers.models.llama.modeling_llama  # noqa: F401 - what a job needs is there before it is forked

from subspace_lab.experiments.executors.local import _ended
from subspace_lab.experiments.run_trial import run_trial
from subspace_lab.studies.safety.config import EvalConfig, StudyConfig
from subspace_lab.studies.safety.recipes import warm_up

warm_up()
PLUGIN = str(Path(__file__).with_name("tiny.py"))
TINY = StudyConfig(
    policy="tiny", plugins=(PLUGIN,), threats=("clean", "poison:share=0.3"), regimes=("adamw:lr=1e-2",),
    defenses=("none", "counted", "halved"), steps=4, batch_size=4, rows=20, probe_every=2, base_steps=6,
    base_batch_size=8, align_steps=4, align_batch_size=4, evaluation=EvalConfig(task_rows=4, max_new_tokens=3),
)  # fmt: skip


class Forked:
    """One process after the other, forked from this one, which has imported everything; it notes what it ran."""

    def __init__(self, kill=None):
        self.ran, self._kill = [], kill

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def run(self, trials, watch):
        for request in trials:
            self.ran.append(request.name)
            watch.begun(request.name)
            pid = os.fork()
            if not pid:
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, 1)
                os.dup2(null, 2)
                try:
                    run_trial(request)
                finally:
                    os._exit(0)
            if self._kill is not None:
                time.sleep(self._kill())
                os.kill(pid, signal.SIGKILL)
            watch.ended(request.name, _ended(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
            watch.look()


def kinds(names):
    """The jobs among some names by what they begin with."""
    return sorted(name.partition("_")[0].partition("-")[0] for name in names)


def delays(seed, longest):
    """Seconds after which a process is killed."""
    draw = random.Random(seed)
    return lambda: draw.uniform(0, longest)
