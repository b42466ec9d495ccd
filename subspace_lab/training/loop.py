"""A training run from beginning to end: steps, captures, metrics, checkpoints, interruption and resuming."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from subspace_lab._extras import require
from subspace_lab._paths import local_path
from subspace_lab.capture import GradientCapture
from subspace_lab.optim import RefreshClock, recovery_shares
from subspace_lab.optim.low_rank import LowRankOptimizer
from subspace_lab.runs import Run, RunError
from subspace_lab.runs.ownership import Ownership
from subspace_lab.training.checkpoint import load_checkpoint, save_checkpoint
from subspace_lab.training.config import TrainConfig
from subspace_lab.training.hooks import StepHooks
from subspace_lab.training.interrupt import DivergedError, Interrupt, TrainingInterrupted, catch_interrupt
from subspace_lab.training.models import linear_layers
from subspace_lab.training.optimizers import plan_of
from subspace_lab.training.places import places_of, task_of_run
from subspace_lab.training.progress import TrainingProgress
from subspace_lab.training.sharding import is_sharded
from subspace_lab.training.start import (
    config_to_resume,
    config_to_start,
    drop_snapshots,
    moved_files,
    repeats,
    settle_on_machine,
    torch_state_of_a_run,
)
from subspace_lab.training.tasks.base import Task
from subspace_lab.training.tasks.table import ShippedTask, task_of
from subspace_lab.training.trainer import Trainer
from subspace_lab.training.workers import Workers, workers

_LOOKS = 50  # at the recovery, over a training


def train(
    run_dir: str | Path,
    config: TrainConfig | None = None,
    *,
    resume: bool = False,
    feed: Task | None = None,
    model: torch.nn.Module | None = None,
    hooks: StepHooks | None = None,
) -> Path:
    """Train a model while its gradients are captured.

    The run is a function of its configuration: a run that was killed at any instant and resumed has bit for bit the
    parameters and snapshots of one that was not, on the same machine with the same number of threads. Under torchrun
    each process takes a share of every micro-batch, the model is whole in each or sharded (``config.sharding``), and
    the first process writes. Resumed by another number of processes, or in another sharding, it agrees to rounding, and
    snapshots after the checkpoint are taken again.

    Args:
        run_dir: The run directory; a new one, unless resuming.
        config: What to train and how; None for the defaults, or when resuming for what the run began with.
        resume: Go on from the last checkpoint, or from the first step when there is none. Snapshots that are taken
            again must be identical to those that are there.
        feed: A task of your own instead of the one that the configuration names; the same one when resuming.
        model: A model of your own instead of the one that the configuration names, trained in place; as it was before
            the first step when resuming.
        hooks: What is to happen before and after every step; the same when resuming.

    Returns:
        The run directory.

    Raises:
        RunError: If there is a run already (when not resuming), or none, a finished one or one of another
            configuration, plan or data (when resuming), or if something cannot be written.
        RunLostError: If the run directory is removed, moved or replaced meanwhile, a kind of RunError.
        DivergedError: If the loss or the gradient is no longer finite, a kind of RunError.
        ValueError: If the configuration or the data do not do.
        ModuleNotFoundError: Without the packages of the extra ``hf``.
        ProcessLostError: If another process failed or is gone, a kind of RunError.
        TrainingInterrupted: After Ctrl-C; there is a checkpoint, and the message says how to go on.
    """
    require("transformers", extra="hf")
    run_dir = local_path(run_dir, error=RunError)
    with workers() as team:
        asked = config
        config = config_to_resume(run_dir, asked, team) if resume else config_to_start(run_dir, asked, team)
        moved = moved_files(asked, config) if resume and asked is not None else {}
        with torch_state_of_a_run(config, team):
            config = settle_on_machine(config, team)
            if feed is None:
                config, own = _own_task(run_dir, config, team, moved if resume else None)
            elif resume:
                _check_data(run_dir, config, feed)
            task: Task = own if feed is None else feed
            trainer = Trainer(config, task, team, model)
            if feed is None:
                _check_vocabulary(trainer.model, own.largest_token)
            config = dataclasses.replace(config, layers=config.layers or linear_layers(trainer.model))
            hooks = hooks or StepHooks()
            if hooks.backward is not None and team.size > 1:
                raise ValueError(f"a backward pass of your own is of one process, this training has {team.size}")
            start = load_checkpoint(run_dir, trainer.model, trainer.optimizer, hooks.state) if resume else 0
            if resume and team.is_first and not repeats(run_dir, config, team):
                drop_snapshots(run_dir, start)
            with (
                catch_interrupt() as interrupt,
                _capture(run_dir, config, trainer, task, resume=resume) as capture,
            ):
                _Loop(run_dir, config, trainer, capture, team, interrupt, hooks).run(start)
    return run_dir


def _capture(
    run_dir: Path,
    config: TrainConfig,
    trainer: Trainer,
    task: Task,
    *,
    resume: bool,
) -> GradientCapture:
    return GradientCapture(
        trainer.model,
        run_dir,
        every=config.every,
        keep=config.keep,
        layers=config.layers,
        resume=resume,
        on_error="raise",
        config=config.to_dict(),
        seeds={"seed": config.seed},
        data_hash=task.identity,
        evaluation=task.facts(),
        plan=plan_of(config),
        places=places_of(config, run_dir),
    )


def _own_task(
    run_dir: Path, config: TrainConfig, team: Workers, moved: dict[str, str] | None
) -> tuple[TrainConfig, ShippedTask]:
    """The task of a configuration, and the configuration with where the files of a resumed run are now."""
    with team.first_before_others():
        return (
            (config, task_of(config, team)) if moved is None else task_of_run(Run.open(run_dir), config, team, **moved)
        )


def _check_data(run_dir: Path, config: TrainConfig, task: Task) -> None:
    if (before := Run.open(run_dir).manifest.get("data_hash")) != task.identity:
        hashes = f"hash {str(before)[:12]}, now {task.identity[:12]}"
        raise RunError(f"{run_dir} began with other data ({hashes}); restore data={config.data!r}")


def _check_vocabulary(model: torch.nn.Module, largest: int) -> None:
    embeddings = getattr(model, "get_input_embeddings", lambda: None)()
    known = getattr(embeddings, "num_embeddings", None)
    if known is not None and largest >= known:
        raise ValueError(
            f"the data have token {largest}, the model knows {known}; "
            "use the model's own tokenizer or a larger vocab_size"
        )


class _Loop:
    def __init__(
        self,
        run_dir: Path,
        config: TrainConfig,
        trainer: Trainer,
        capture: GradientCapture,
        team: Workers,
        interrupt: Interrupt,
        hooks: StepHooks,
    ) -> None:
        assert config.steps is not None
        self._run_dir = run_dir
        self._config = config
        self._steps = config.steps
        self._trainer = trainer
        self._shares: dict[str, float] = {}
        self._capture = capture
        self._team = team
        self._own = Ownership(run_dir) if team.is_first else None
        self._interrupt = interrupt
        self._hooks = hooks
        self._clock = _Clock()
        self._refreshes = _time_refreshes(trainer.optimizer)

    def run(self, start: int) -> None:
        stop = False
        with TrainingProgress(start=start, steps=self._steps, shown=self._team.is_first) as progress:
            for step in range(start, self._steps):
                self._step(step, progress)
                stop = any(self._team.sums([float(self._interrupt.asked)]))
                self._checkpoint(step + 1, now=stop)
                if stop:
                    break
        self._team.wait()  # nobody leaves before the checkpoint is written
        if stop and step + 1 < self._steps:
            raise TrainingInterrupted(self._run_dir, step + 1)

    def _step(self, step: int, progress: TrainingProgress) -> None:
        trainer = self._trainer
        metrics = self._evaluate(step)
        loss = self._backward(step)
        if self._hooks.before is not None:
            self._hooks.before(step, trainer.model)
        norm = trainer.gradient_norm()
        seconds = self._clock.lap()
        self._capture.log(loss=loss, lr=trainer.schedule.at(step), grad_norm=norm, clipped=False, **metrics)
        if self._team.size > 1:
            self._capture.log(loss_of=f"mean over {self._team.size} processes")
        self._capture.log(accumulation=self._config.accumulation, tokens=trainer.tokens_per_step, seconds=seconds)
        self._capture.log(refresh_seconds=self._refreshes.lap() if self._refreshes else None)
        self._capture.log(**self._shares)
        self._check_own()
        self._capture.step(step)
        if not (math.isfinite(loss) and math.isfinite(norm.item())):
            raise DivergedError(
                f"{self._run_dir} diverged at step {step}: loss {loss}, gradient norm {norm.item()}; "
                "start again with a smaller lr"
            )
        trainer.update(step, norm)
        self._look(step + 1)
        if self._hooks.after is not None:
            self._hooks.after(step, trainer.model)
        trainer.optimizer.zero_grad()
        progress.show(step, loss, next(iter(metrics.values()), None), seconds)

    def _backward(self, step: int) -> float:
        plain = functools.partial(self._trainer.backward, step)
        own = self._hooks.backward
        return plain() if own is None else own(step, self._trainer.model, plain)

    def _check_own(self) -> None:
        """A training is for its run directory: it ends where that is gone."""
        if self._own is not None:
            self._own.check()

    def _look(self, taken: int) -> None:
        """What the step did outside of the subspace, for the next line of the metrics where one is due."""
        self._shares = {}
        if taken % max(1, self._steps // _LOOKS) == 0:
            with self._clock.stopped():
                self._shares = recovery_shares(self._trainer.optimizer)

    def _evaluate(self, step: int) -> dict[str, float]:
        every = self._config.eval_every
        if every is None or (step % every and step != self._steps - 1):
            return {}
        with self._clock.stopped():
            return self._trainer.evaluate()

    def _checkpoint(self, taken: int, *, now: bool) -> None:
        if not (now or taken % self._config.checkpoint_every == 0 or taken == self._steps):
            return
        if not (self._team.is_first or is_sharded(self._trainer.model)):
            return
        with self._clock.stopped():
            self._check_own()
            save_checkpoint(
                self._run_dir,
                taken,
                self._trainer.model,
                self._trainer.optimizer,
                self._hooks.state,
                keep=self._config.keep_checkpoints,
                writes=self._team.is_first,
            )


def _time_refreshes(optimizer: torch.optim.Optimizer) -> RefreshClock | None:
    """A clock of the optimizer's subspaces, None where it has none."""
    if not isinstance(optimizer, LowRankOptimizer):
        return None
    clock = optimizer.refresh_clock = RefreshClock()
    return clock


class _Clock:
    """Seconds of a step, without what is not training: from one gradient to the next."""

    def __init__(self) -> None:
        self._since = time.perf_counter()

    def lap(self) -> float:
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        return seconds

    @contextmanager
    def stopped(self) -> Iterator[None]:
        before = time.perf_counter()
        yield
        self._since += time.perf_counter() - before
