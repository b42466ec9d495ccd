"""The contract of an executor: it is entered once, runs batches of trials, and reports how each process ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol


@dataclass(frozen=True)
class Request:
    """Everything that a process needs to run a trial, as JSON-ready values.

    Attributes:
        trials_dir: The directory of all trials.
        name: The trial's directory in it.
        recipe: A name for `recipe_named`.
        config: The recipe's configuration.
        parents: Content hash to directory name of the trials that it begins from.
        attempt: From 1 on, resumed attempts included.
        keeps_weights: Whether other trials begin from its weights.
        plugins: Modules that the caller named, imported before the recipe is looked up.
        environment: Variables of its process, for its GPU for example.
        resume: Whether an earlier attempt is continued; None looks for one (only where one process runs the trial).
    """

    trials_dir: str
    name: str
    recipe: str
    config: Mapping[str, Any]
    parents: Mapping[str, str] = field(default_factory=dict)
    attempt: int = 1
    keeps_weights: bool = False
    plugins: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    resume: bool | None = None


@dataclass(frozen=True)
class Ended:
    """How the process of a trial ended; the result of the trial is in its outcome, if the process wrote one.

    Attributes:
        how: ``finished`` (status 0), ``failed`` (another status) or ``killed`` (by a signal, or with its job).
        detail: Text for people, never parsed.
    """

    how: Literal["finished", "failed", "killed"]
    detail: str = ""


class Watcher(Protocol):
    """Receives the progress of a batch."""

    def begun(self, name: str) -> None:
        """A trial has begun, or was submitted."""

    def ended(self, name: str, ended: Ended) -> None:
        """The process of a trial has ended."""

    def look(self) -> None:
        """Called several times a second, or as often as the executor looks itself."""


class Executor(AbstractContextManager[Any], Protocol):
    """A context manager that many batches share; after it, even after an error, no trial is running."""

    def run(self, trials: Sequence[Request], watch: Watcher) -> None:
        """Run trials until the processes of all have ended.

        Args:
            trials: What to run, in this order.
            watch: Called for every trial that begins or ends.

        Raises:
            RunError: If no trial can be started.
        """
