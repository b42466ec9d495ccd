"""What of a job decides its outcome: options with every default, versions of classes, rows in their order."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

from subspace_lab.experiments.plugins import version_of
from subspace_lab.runs.files import file_hash
from subspace_lab.studies.safety.kinds import POLICIES, TASKS, Pools
from subspace_lab.studies.safety.registry import Registry
from subspace_lab.studies.safety.splits import Split, make_split, rows_hash
from subspace_lab.studies.safety.stages import DEFENSES, Chain
from subspace_lab.training.tasks.exercise import Exercise
from subspace_lab.training.tasks.rows import Row


@functools.lru_cache(maxsize=64)
def hash_of_file(file: Path) -> str:
    """SHA-256 of a file; once in a process."""
    return file_hash(file)


def described(registry: Registry[Any], instance: Any) -> dict[str, Any]:
    """An instance as a content has it: its name, all of its options, its version.

    Args:
        registry: Where its class is registered.
        instance: A frozen dataclass; of a path among its fields, the content of the file counts.

    Returns:
        Plain values.
    """
    values = {one.name: getattr(instance, one.name) for one in dataclasses.fields(instance)}
    options = {name: _of_path(value) if isinstance(value, Path) else value for name, value in values.items()}
    return {"name": registry.name_of(type(instance)), "options": options, **version_of(type(instance))}


def _of_path(path: Path) -> Any:
    """Of a directory what its files hold; a name that is not a path stands for itself."""
    path = path.expanduser()
    if path.is_dir():
        return {file.name: hash_of_file(file) for file in sorted(path.iterdir()) if file.is_file()}
    return hash_of_file(path) if path.is_file() else str(path)


def described_chain(chain: Chain) -> list[dict[str, Any]]:
    """Its defenses, in order."""
    return [described(DEFENSES, one) for one in chain.defenses]


@functools.lru_cache(maxsize=16)
def pools_of(policy: str, seed: int) -> Pools:
    """The pools of a policy by its text; once in a process."""
    return POLICIES.parse(policy).pools(seed)


@functools.lru_cache(maxsize=256)
def pool_hash(policy: str, seed: int, pool: str) -> str:
    """`rows_hash` of a pool."""
    return rows_hash(getattr(pools_of(policy, seed), pool))


@functools.lru_cache(maxsize=64)
def tests_hash(policy: str, seed: int) -> str:
    """Of everything that a policy asks in an evaluation."""
    pools = pools_of(policy, seed)
    said = [
        Row(text, row.response) for row, texts in zip(pools.test, pools.paraphrases, strict=False) for text in texts
    ]
    return rows_hash([*pools.test, *said, *pools.contrast, *pools.allowed])


@functools.lru_cache(maxsize=16)
def exercise_of(task: str, form: Any) -> Exercise:
    """The exercise of a task by its text; once in a process."""
    return TASKS.parse(task).exercise(form)


@functools.lru_cache(maxsize=64)
def held_out_hash(task: str, form: Any) -> str:
    """Of the rows of a task that utility is measured on."""
    return rows_hash(exercise_of(task, form).split.held_out)


@functools.lru_cache(maxsize=64)
def split_of(task: str, policy: str, threat: str, rows: int, seed: int, draw: int) -> Split:
    """`make_split`, once in a process."""
    return make_split(task, policy, threat, rows=rows, seed=seed, draw=draw)


def forget() -> None:
    """Read every file again: one that was changed in the meantime decides other outcomes."""
    for known in (hash_of_file, pools_of, pool_hash, tests_hash, exercise_of, held_out_hash, split_of):
        known.cache_clear()
