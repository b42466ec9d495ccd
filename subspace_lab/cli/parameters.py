"""Parameters that several commands share."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from cyclopts import ArgumentCollection, CoercionError, Parameter, Token

from subspace_lab._paths import local_path
from subspace_lab._text import plain_value

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


class Bytes(int):
    """A number of bytes, given as 2GB, 500MB, 1.5GiB or a plain number."""


def _to_bytes(_: type, tokens: Sequence[Token]) -> Bytes:
    text = tokens[0].value
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMG]I?|)B?", text.strip().upper())
    size = float(found[1]) * _UNITS[found[2]] if found else math.inf
    if not found or size == math.inf:
        raise ValueError(f"{text!r} is not a size; give one such as 2GB, 500MB, 1.5GiB or a number of bytes")
    return Bytes(size)


def _to_path(_: type, tokens: Sequence[Token]) -> Path:
    return local_path(tokens[0].value)


RunDir = Annotated[Path, Parameter(name="RUN_DIR", converter=_to_path)]
OutDir = Annotated[Path, Parameter(name="OUT_DIR", converter=_to_path)]
File = Annotated[Path, Parameter(converter=_to_path)]
Size = Annotated[Bytes, Parameter(converter=_to_bytes)]


@Parameter(name="*")
@dataclass(frozen=True)
class ExecutorOptions:
    """How the trainings or analyses of a command are run.

    Attributes:
        executor: This machine, or jobs of Slurm.
        workers: Trainings, or layers, at a time; by default one per core, or as many as Slurm gives.
        slurm: Options of Slurm: --slurm.partition gpu --slurm.time 60.
    """

    executor: Literal["local", "slurm"] = "local"
    workers: int | None = None
    slurm: dict[str, str] | None = None

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of the function behind the command, the options of Slurm as values."""
        slurm = {name: plain_value(value) for name, value in (self.slurm or {}).items()}
        return {**vars(self), "slurm": slurm or None}


@Parameter(name="*")
@dataclass(frozen=True)
class TrainingOptions(ExecutorOptions):
    """How the trainings of a study are run.

    Attributes:
        executor: This machine, or jobs of Slurm.
        workers: Trainings at a time; by default one per core, or as many as Slurm gives.
        slurm: Options of Slurm: --slurm.partition gpu --slurm.time 60.
        processes: Processes that share a training, begun by torchrun, here one training after the other.
    """

    processes: int | None = None


@Parameter(name="*")
@dataclass(frozen=True)
class StudyOptions(TrainingOptions):
    """How the trainings of a study are run whose configuration is not on the command line.

    Attributes:
        sharding: How they share it: ddp (the default) or fsdp.
    """

    sharding: Literal["ddp", "fsdp", "hsdp"] | None = None


HERE = ExecutorOptions()
TRAINED_HERE = TrainingOptions()
STUDIED_HERE = StudyOptions()


def refuse_useless(what: str, given: Mapping[str, bool]) -> None:
    """Refuse options that have an effect with another one only.

    Args:
        what: The other one, as it is typed.
        given: Whether each was given.

    Raises:
        ValueError: If one was.
    """
    for name in (name for name, is_given in given.items() if is_given):
        raise ValueError(f"--{name} has no effect without {what}; leave it out")


def check_whole(arguments: ArgumentCollection) -> None:
    """Refuse 1.5 where a whole number is meant, which would be rounded."""
    for argument in arguments:
        hint = argument.hint
        whole = int in (hint, *get_args(hint)) or any(int in get_args(part) for part in get_args(hint))
        for token in argument.tokens if whole else ():
            if "." in token.value:
                raise CoercionError(argument=argument, token=token, target_type=int)
