"""Where the files of a run lie: what its manifest keeps of their paths, and how they are found again from elsewhere.

A configuration has paths as they were typed, which mean something in the directory of that time only. The manifest
keeps two more forms of each: the absolute path, which survives a change of directory, and the path from the run
directory, which survives a move of a directory that holds both. Which of the files that are found are the same ones is
decided by their content: the identity of the task that they give.
"""

from __future__ import annotations

import dataclasses
import functools
import glob
import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from subspace_lab.optim.from_plan import read_plan
from subspace_lab.runs import Run, RunError
from subspace_lab.training.config import TrainConfig
from subspace_lab.training.pretrained import HUB, NAMED
from subspace_lab.training.tasks.names import OWN_DATA
from subspace_lab.training.tasks.table import ShippedTask, task_of
from subspace_lab.training.workers import Workers

FILES = ("data", "model", "tokenizer")


def places_of(config: TrainConfig, run_dir: Path) -> dict[str, dict[str, str]]:
    """What a manifest keeps so that the files of a run are found again.

    Args:
        config: The configuration, with paths as they were typed.
        run_dir: The run directory.

    Returns:
        By setting (``data``, ``model``, ``tokenizer``, ``plan``; only where it names something on this machine) its
        ``path`` from the root and its path ``from_run``.
    """
    typed = {name: getattr(config, name) for name in FILES} | {"plan": (config.optimizer_options or {}).get("plan")}
    return {name: _forms(value, run_dir) for name, value in typed.items() if isinstance(value, str) and _is_path(value)}


def task_of_run(
    run: Run,
    config: TrainConfig,
    workers: Workers,
    *,
    data: str | None = None,
    model: str | None = None,
    tokenizer: str | None = None,
) -> tuple[TrainConfig, ShippedTask]:
    """Find the files of a run again, and read its data.

    Args:
        run: An opened run.
        config: How it was trained.
        workers: Processes that share an evaluation.
        data: Where its data are now; None looks where they were: at the absolute path, at the path from the run
            directory, at the path as it was typed.
        model: Where its pretrained model is now, likewise.
        tokenizer: Where its tokenizer is now, likewise.

    Returns:
        The configuration with the paths that hold what the run was trained on, and its task.

    Raises:
        RunError: If something is not there any more, or the data are not what they were.
        ValueError: If a place is given for what the run does not have, or what is there cannot be read.
    """
    assert config.data
    given = {"data": data, "model": model, "tokenizer": tokenizer}
    places = {name: _candidates(run, name, getattr(config, name), given[name]) for name in FILES}
    lost = [name for name in FILES if given[name] is None and _has_place(run, name, getattr(config, name))]
    there = functools.cache(_exists)  # a pattern may walk through a whole disk: later places are looked at when needed
    hashes: dict[str, None] = {}
    unreadable: ValueError | None = None
    for chosen in itertools.product(*places.values()):
        if not all(name not in lost or there(place) for name, place in zip(FILES, chosen, strict=True)):
            continue
        at = _with_files(config, chosen)
        try:
            task = task_of(at, workers, streamed=config.data.startswith(HUB))
        except ValueError as error:
            unreadable = unreadable or error
            continue
        if task.identity == run.manifest.get("data_hash"):
            return at, task
        hashes[task.identity[:12]] = None
    if unreadable is not None and not hashes:
        raise unreadable
    for name in lost:
        if not any(map(there, places[name])):
            raise RunError(_gone(run, name, getattr(config, name), places[name]))
    before = f"hash {str(run.manifest.get('data_hash'))[:12]}, now {' or '.join(hashes)}"
    verb = "was trained on" if run.manifest.get("finished") else "began with"
    raise RunError(
        f"{run.path} {verb} other data ({before}); restore data={config.data!r}, or say where the same data are "
        "with --data (in Python data=)"
    )


def _with_files(config: TrainConfig, chosen: Sequence[str | None]) -> TrainConfig:
    data, model, tokenizer = chosen
    return dataclasses.replace(config, data=data or config.data, model=model, tokenizer=tokenizer)


def plan_of_run(run: Run, path: str) -> str:
    """Where the plan of a run is now: the first of its places that holds what the manifest has of it.

    Args:
        run: An opened run.
        path: The path of the plan, as it was typed.

    Returns:
        A path; the typed one when none holds that plan.
    """
    for place in _places(run, "plan", path):
        try:
            if read_plan(place) == run.manifest.get("plan"):
                return place
        except (OSError, ValueError):
            continue
    return path


def _candidates(run: Run, name: str, typed: str | None, given: str | None) -> Sequence[str | None]:
    """Where a file may be, from the likeliest place on."""
    if given is not None:
        if typed is None:
            raise ValueError(f"{name}={given!r} has no effect: {run.path} was trained without one; leave it out")
        return [given]
    return _places(run, name, typed) if typed is not None and _has_place(run, name, typed) else [typed]


def _has_place(run: Run, name: str, typed: str | None) -> bool:
    return typed is not None and (name in _kept(run) or _is_path(typed))


def _gone(run: Run, name: str, typed: str, places: Iterable[str | None]) -> str:
    looked = ", ".join(dict.fromkeys(os.path.abspath(str(place).removeprefix(HUB)) for place in places))
    return (
        f"{run.path} was trained with {name}={typed!r}, which is not there any more (looked for {looked}); say where "
        f"it is with --{name} (in Python {name}=)"
    )


def _places(run: Run, name: str, typed: str) -> list[str]:
    """Where it was, where it lies as seen from the run, and what was typed as seen from here."""
    known = _kept(run).get(name)
    if not isinstance(known, dict) or not all(isinstance(known.get(form), str) for form in ("path", "from_run")):
        return [typed]
    scheme = HUB if typed.startswith(HUB) else ""
    places = [known["path"], _joined(os.path.realpath(run.path), known["from_run"])]
    return list(dict.fromkeys([*(scheme + place for place in places), typed]))


def _kept(run: Run) -> dict[str, Any]:
    kept = run.manifest.get("places")
    return kept if isinstance(kept, dict) else {}


def _is_path(typed: str) -> bool:
    """Whether a setting names something on this machine: no word with a meaning, nor what is on the hub."""
    return _exists(typed) if typed.startswith(HUB) else typed not in {*OWN_DATA, *NAMED}


def _exists(place: str | None) -> bool:
    path = os.path.expanduser(str(place).removeprefix(HUB))
    return os.path.exists(path) or (glob.has_magic(path) and bool(glob.glob(path, recursive=True)))


def _forms(typed: str, run_dir: Path) -> dict[str, str]:
    """Of a pattern, what comes before its first wildcard is made absolute, and followed through links."""
    path = os.path.expanduser(typed.removeprefix(HUB))
    parts = Path(path).parts
    fixed = parts if os.path.exists(path) else tuple(itertools.takewhile(lambda part: not glob.has_magic(part), parts))
    start, pattern = os.path.join(".", *fixed), parts[len(fixed) :]
    forms = {
        "path": os.path.abspath(start),
        "from_run": os.path.relpath(os.path.realpath(start), os.path.realpath(run_dir)),
    }
    return {name: os.path.join(glob.escape(form), *pattern) if pattern else form for name, form in forms.items()}


def _joined(directory: str, path: str) -> str:
    """A path, or a pattern, from a directory."""
    plain = os.path.normpath(os.path.join(directory, path))
    is_pattern = glob.has_magic(path) and not os.path.exists(plain)
    return os.path.normpath(os.path.join(glob.escape(directory), path)) if is_pattern else plain
