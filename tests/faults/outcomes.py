"""What became of opening a directory with a fault in it: right, one line of the package's own, or something worse."""

from __future__ import annotations

import random
import shutil
import signal
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import subspace_lab as sl
from subspace_lab.analysis import AnalysisNotice
from tests.faults.mutants import faults_of
from tests.faults.subjects import SLOW, SUBJECTS, Subject

SECONDS, SECONDS_DRAWN = 20, 300
OWN = (sl.RunError, ValueError, OSError)  # an OSError names the file: from_plan promises one for a missing plan
KEPT = (".safetensors", ".jsonl", ".json", ".parquet")


class _TooLong(BaseException):
    pass


@dataclass(frozen=True)
class Outcome:
    """What one opener made of one mutant.

    Attributes:
        mutant: Subject, file and fault.
        opener: What opened it.
        kind: ``right``, ``refused`` (one line), or what may not be: ``raw``, ``lines``, ``silent``, ``hang``, ``lost``.
        words: The message.
    """

    mutant: str
    opener: str
    kind: str
    words: str = ""

    @property
    def is_sound(self) -> bool:
        """Whether it is what it may be."""
        return self.kind in {"right", "refused"}


def outcomes(
    directory: Path,
    *,
    per_file: int,
    seed: int,
    files: int,
    subjects: tuple[str, ...] = tuple(SUBJECTS),
    slow: bool = False,
) -> Iterator[Outcome]:
    """Open mutants of every kind of file with everything that reads it.

    Args:
        directory: Where they are made.
        per_file: Faults tried on a file, drawn without repetition.
        seed: Of what is drawn.
        files: At most so many files of a subject, drawn; kinds of files first.
        subjects: Which kinds of directories.
        slow: Whether figures and reports are drawn as well.

    Yields:
        What became of each.
    """
    draw = random.Random(seed)
    for name in subjects:
        subject, sound = SUBJECTS[name], directory / name / "sound"
        sound.parent.mkdir(parents=True)
        subject.write(sound)
        openers = subject.openers | (SLOW.get(name, {}) if slow else {})
        expected = {opener: _open(openers[opener], sound, SECONDS_DRAWN) for opener in openers}
        for opener, (kind, words) in expected.items():
            assert kind == "right", f"{name}, untouched, {opener}: {kind} {words}"
        for file in _chosen(sound, files, draw):
            faults = faults_of(sound / file)
            for fault in draw.sample(sorted(faults), min(per_file, len(faults))):
                mutant = directory / name / "mutant"
                shutil.copytree(sound, mutant)
                faults[fault](mutant / file, draw)
                yield from _opened(f"{name}/{file}: {fault}", mutant, subject, openers, expected, file, fault)
                shutil.rmtree(mutant)
                for left in directory.glob("elsewhere-*"):
                    left.unlink()


def _chosen(sound: Path, files: int, draw: random.Random) -> list[Path]:
    found = sorted(path.relative_to(sound) for path in sound.rglob("*") if path.is_file() and path.name != ".lock")
    found = [path for path in found if path.suffix in {*KEPT, ".npy", ".sha256"}]
    first = list({path.parts[0] + path.suffix: path for path in found}.values())
    rest = [path for path in found if path not in first]
    return [*first, *draw.sample(rest, len(rest))][:files]


def _opened(
    name: str, mutant: Path, subject: Subject, openers: Any, expected: Any, file: Path, fault: str
) -> Iterator[Outcome]:
    others = {path: path.read_bytes() for path in mutant.rglob("*") if path.suffix in KEPT and path.is_file()
              and path != mutant / file and path.stat().st_size < 1 << 20}  # fmt: skip
    for opener, read in openers.items():
        kind, words = _open(read, mutant, SECONDS if opener in subject.openers else SECONDS_DRAWN)
        if (
            kind == "right"
            and opener in subject.exact
            and fault not in {"gone", "directory"}
            and words != expected[opener][1]
        ):
            kind = "silent"
        yield Outcome(name, opener, kind, "" if kind == "right" else words)
    lost = [path for path, content in others.items() if not path.is_file() or path.read_bytes() != content]
    rewritten = {"results.parquet", "curves.parquet"}  # made again from the cells
    if lost := [path for path in lost if path.name not in rewritten and ".sha256" not in path.name]:
        yield Outcome(name, "all", "lost", str(lost))


def _open(read: Any, path: Path, seconds: int = SECONDS) -> tuple[str, str]:
    def alarm(*_: object) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGALRM, alarm)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AnalysisNotice)
            warnings.simplefilter("ignore", UserWarning)
            return "right", str(read(path))
    except _TooLong:
        return "hang", f"more than {seconds} s"
    except OWN as error:
        kind = "refused" if len(str(error).splitlines()) == 1 else "lines"
        return kind, f"{type(error).__name__}: {error}"
    except Exception as error:
        return "raw", f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
