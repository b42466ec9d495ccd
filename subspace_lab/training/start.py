"""What is decided before the first step: the configuration of a run, new or resumed, and the state of torch."""

from __future__ import annotations

import dataclasses
import statistics
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch

from subspace_lab.runs import Run, RunError
from subspace_lab.runs.files import confined
from subspace_lab.runs.manifest import MANIFEST
from subspace_lab.runs.snapshot import snapshot_path, steps_in
from subspace_lab.runs.writer import refuse_existing
from subspace_lab.training.config import TrainConfig
from subspace_lab.training.optimizers import method_key, plan_of, settle_optimizer, with_beta2
from subspace_lab.training.places import FILES, plan_of_run
from subspace_lab.training.sharding import asked_by_environment, settle_sharding, sharding_of
from subspace_lab.training.workers import Workers

_SIZE = 1024
_REPEATS = 5
_WORTH_IT = 1.3  # autocast casts weights and activations back and forth: a smaller gain is eaten up by that


def stored_config(run_dir: str | Path) -> TrainConfig:
    """The configuration that a training run began with, every open field filled in.

    Args:
        run_dir: The run directory.

    Returns:
        The configuration.

    Raises:
        RunError: If it is not a sound run, or not one that a training began.
    """
    values = Run.open(run_dir).manifest.get("config")
    problem = f"{run_dir} was not begun by a training run"
    if not isinstance(values, dict):
        raise RunError(f"{problem}: its manifest has no configuration; start a new one")
    try:
        return TrainConfig.from_dict(values)
    except (ValueError, TypeError) as error:
        raise RunError(f"{problem} of this release ({error}); start a new one") from error


def config_to_start(run_dir: Path, config: TrainConfig | None, workers: Workers) -> TrainConfig:
    """The resolved configuration of a new run.

    Args:
        run_dir: Where it is to be; nothing may be there yet.
        config: What was asked for; None for the defaults.
        workers: The first process looks at the directory.

    Returns:
        The configuration, the optimizer's settings included.
    """
    if workers.is_first:
        refuse_existing(run_dir)
    return settle_sharding(settle_optimizer((config or TrainConfig()).resolved()), workers)


def config_to_resume(run_dir: Path, config: TrainConfig | None, workers: Workers) -> TrainConfig:
    """The configuration of a run that is resumed: that with which it began.

    Args:
        run_dir: The run directory.
        config: What was asked for; None for whatever it was.
        workers: The processes that go on; they may be more or fewer than before, and share the model otherwise.

    Returns:
        The configuration, with the sharding that was asked for.

    Raises:
        RunError: If the run is finished, was not begun by a training, or began with another configuration or plan.
        ValueError: If a sharding is asked for that has no effect on these processes.
    """
    before = stored_config(run_dir)
    if Run.open(run_dir).manifest.get("finished"):
        raise RunError(f"{run_dir} is finished: all of its {before.steps} steps are done; there is nothing to resume")
    sharding = (config and config.sharding) or asked_by_environment() or before.sharding
    if config is not None:
        if config.sharding is not None:
            settle_sharding(config, workers)
            config = dataclasses.replace(config, sharding=before.sharding)
        places = {name: getattr(before, name) for name in moved_files(config, before)}
        config = dataclasses.replace(config, optimizer=method_key(config.optimizer), **places)
        config = config if before.betas is None else with_beta2(config, before.betas)
    try:
        config = (config or before).matched(before)
    except ValueError as error:
        raise RunError(f"{run_dir} began with other settings ({error}); resume with the same ones") from error
    config = dataclasses.replace(_with_plan(run_dir, config), sharding=sharding)
    if workers.is_first and not repeats(run_dir, config, workers):
        _warn_of_other_processes(run_dir, config, workers)
    return config


def repeats(run_dir: Path, config: TrainConfig, workers: Workers) -> bool:
    """Whether a resumed run repeats its steps bit for bit: as many processes share the model in the same way.

    Args:
        run_dir: The run directory.
        config: From `config_to_resume`.
        workers: The processes that go on.

    Returns:
        Whether it does; otherwise it does to rounding.
    """
    is_shared_alike = workers.size == 1 or sharding_of(config, workers) == _sharding_before(run_dir)
    return processes_of(run_dir) == workers.size and is_shared_alike


def processes_of(run_dir: Path) -> int:
    """How many processes began a run."""
    number: int = Run.open(run_dir).manifest.get("environment", {}).get("processes", 1)
    return number


def drop_snapshots(run_dir: Path, step: int) -> None:
    """Remove the snapshots of a step and later ones, which are taken again and will not be the same to the last bit."""
    for later in [later for later in steps_in(run_dir / "snapshots") if later >= step]:
        confined(run_dir, snapshot_path(run_dir, later)).unlink()


def _warn_of_other_processes(run_dir: Path, config: TrainConfig, workers: Workers) -> None:
    before = _processes(processes_of(run_dir), _sharding_before(run_dir))
    now = _processes(workers.size, sharding_of(config, workers))
    warnings.warn(
        f"{run_dir} was begun by {before}, now it is resumed by {now}: sums in another order agree to rounding, not "
        "bit for bit; snapshots after the checkpoint are taken again",
        stacklevel=4,
    )


def _sharding_before(run_dir: Path) -> str:
    """How the processes that began a run shared its model; in earlier releases by ``ddp`` only."""
    return stored_config(run_dir).sharding or "ddp"


def _processes(number: int, sharding: str | None) -> str:
    return "one process" if number == 1 else f"{number} processes ({sharding})"


def moved_files(config: TrainConfig, before: TrainConfig) -> dict[str, str]:
    """Files for which another place is given than a run began with; whether they are the same, their content says.

    Args:
        config: What was asked for.
        before: What the run began with.

    Returns:
        The places by setting, of those that the run has.
    """
    default = TrainConfig()
    given = {name: getattr(config, name) for name in FILES if getattr(before, name) is not None}
    return {
        name: value for name, value in given.items() if value not in {getattr(default, name), getattr(before, name)}
    }


def _with_plan(run_dir: Path, config: TrainConfig) -> TrainConfig:
    """The configuration with the plan at the place where it is now; refused when it is another one."""
    options = config.optimizer_options or {}
    if isinstance(path := options.get("plan"), str):
        found = plan_of_run(Run.open(run_dir), path)
        config = dataclasses.replace(config, optimizer_options={**options, "plan": found})
    _check_plan(run_dir, config)
    return config


def _check_plan(run_dir: Path, config: TrainConfig) -> None:
    restore = f"restore the file from the plan in {run_dir / MANIFEST}"
    try:
        now = plan_of(config)
    except ValueError as error:
        raise RunError(f"{error}; {restore}") from error
    if now != Run.open(run_dir).manifest.get("plan"):
        assert config.optimizer_options
        raise RunError(f"{config.optimizer_options['plan']} is not the plan that {run_dir} began with; {restore}")


def settle_on_machine(config: TrainConfig, workers: Workers) -> TrainConfig:
    """The configuration with what depends on the machine: the threads in use, and the faster precision.

    Args:
        config: A resolved configuration; what it says itself stays.
        workers: The first process decides for all.

    Returns:
        The configuration with ``threads`` and ``precision`` set.
    """
    config = dataclasses.replace(config, threads=torch.get_num_threads())
    if config.precision != "auto":
        return config
    half = workers.is_first and faster_precision(workers.device) == "bfloat16"
    return dataclasses.replace(config, precision="bfloat16" if workers.sums([float(half)])[0] else "float32")


def faster_precision(device: torch.device) -> Literal["float32", "bfloat16"]:
    """``bfloat16`` where its matrix products are clearly faster than float32 ones, by trying both.

    Args:
        device: Where the model will be.

    Returns:
        The precision to train in.
    """
    single, half = (_seconds(torch.ones(_SIZE, _SIZE, dtype=dtype, device=device))
                    for dtype in (torch.float32, torch.bfloat16))  # fmt: skip
    return "bfloat16" if single > _WORTH_IT * half else "float32"


def _seconds(A: torch.Tensor) -> float:
    times = []
    for _ in range(_REPEATS + 1):  # the first one warms up
        start = time.perf_counter()
        (A @ A)[0, 0].item()  # waits for an accelerator
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


@contextmanager
def torch_state_of_a_run(config: TrainConfig, workers: Workers) -> Iterator[None]:
    """Threads as configured, and the caller's threads and random generators given back afterwards.

    Args:
        config: A configuration whose threads are set.
        workers: Says which device's generator is used.

    Yields:
        Nothing.
    """
    threads = torch.get_num_threads()
    devices = [workers.device] if workers.device.type == "cuda" else []
    torch.set_num_threads(config.threads or threads)
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        torch.set_num_threads(threads)
