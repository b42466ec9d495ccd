"""The contract of an executor: it is entered once, is given batches of trials, and says how each process ended."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Protocol, Self


@dataclass(frozen=True)
class Request:
    """Everything that a process needs to run a trial; plain values, so that it can travel as JSON.

    Attributes:
        trials_dir: The directory of all trials.
        name: The trial's directory in it.
        recipe: What is done.
        config: With what.
        parents: Content hash to directory name of the trials that it begins from.
        attempt: Which time it is begun or resumed, from 1 on.
        keeps_weights: Whether other trials begin from its weights.
        plugins: Modules that the caller named; nothing else is imported for it.
        environment: Variables of its process: which GPU it has, for example.
        resume: Whether there is something to go on with; None looks, which several processes may not do each.
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

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values by field."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Ended:
    """How the process of a trial ended; what became of the trial is in its outcome, if it came to write one.

    Attributes:
        how: ``finished``: with status 0; ``failed``: with another one; ``killed``: by a signal, or its job was.
        detail: For people; never parsed.
    """

    how: Literal["finished", "failed", "killed"]
    detail: str = ""


class Watcher(Protocol):
    """Who is told how a batch gets on."""

    def begun(self, name: str) -> None:
        """A trial has begun, or was submitted."""

    def ended(self, name: str, ended: Ended) -> None:
        """The process of a trial has ended."""

    def look(self) -> None:
        """Called several times a second, or as often as the executor looks itself."""


class Executor(Protocol):
    """A context manager that many batches share; at its end, however it comes about, no trial is running."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    def run(self, trials: Sequence[Request], watch: Watcher) -> None:
        """Run trials until the processes of all have ended.

        Args:
            trials: What to run, in this order.
            watch: Told what happens.

        Raises:
            RunError: If no trial can be begun.
        """
