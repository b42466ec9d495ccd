"""The processes of a run: one, or as many as torchrun started, and how each of them ends when one is lost.

Everything goes through torch's process group. Its store, a small dictionary that all processes see, says which process
ended for which reason, so that the others, whose collectives then fail, can name it.
"""

from __future__ import annotations

import datetime
import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from subspace_lab.runs import RunError

_PATIENCE = datetime.timedelta(minutes=10)  # of a collective, in which every process must be by then
_GRACE_S = 10.0  # for the others to say why they end; torchrun kills them half a minute after the first one
_GLANCE_S = 0.1  # between two looks into the store
_LOST = "lost the others"
_meetings, _groups = itertools.count(), itertools.count()  # of this process, as many in the others


class ProcessLostError(RunError):
    """Another process of the run failed or is gone, and this one ends with it."""


class _Terminated(BaseException):
    """SIGTERM, by which torchrun ends the processes that are left when one is gone."""


@dataclass(frozen=True)
class Workers:
    """This process among those of the run.

    Attributes:
        rank: Number of this process; the first one, 0, writes.
        size: Number of processes.
        device: Where this one computes.
        meeting: Under which name the processes leave notes in their store.
    """

    rank: int
    size: int
    device: torch.device
    meeting: str = ""

    @property
    def is_first(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def sums(self, values: Sequence[float]) -> list[float]:
        """The sums over all processes of some numbers; without others, the numbers themselves.

        Args:
            values: As many in every process.

        Returns:
            The sums, the same in every process.
        """
        if self.size == 1:
            return list(values)
        totals = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(totals)
        return [float(total) for total in totals]

    def shares(self, count: int, batch_size: int) -> Iterator[list[int]]:
        """The batches of this process where all of them share some rows.

        Args:
            count: How many rows.
            batch_size: Rows at a time, over all processes.

        Yields:
            Numbers of rows; as many lists in every process, since a sharded model runs in all of them or in none, so
            that the last one may be empty.
        """
        mine, size = range(self.rank, count, self.size), batch_size // self.size
        for start in range(0, len(range(0, count, self.size)), size):
            yield [*mine[start : start + size]]

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """The first process goes through alone; the others wait as long as it takes, a large dataset for example.

        Yields:
            Nothing.

        Raises:
            ProcessLostError: If the first process failed meanwhile.
        """
        if self.size > 1 and not self.is_first:
            notes = _Notes(self)
            while not notes.has("first is through"):
                if notes.has("ended 0"):
                    raise ProcessLostError(notes.sentence({0: notes.read("ended 0")}))
                time.sleep(_GLANCE_S)
        yield
        if self.size > 1 and self.is_first:
            _Notes(self).write("first is through", "")


@contextmanager
def workers() -> Iterator[Workers]:
    """Join the processes that torchrun started; alone when ``WORLD_SIZE`` is not set or 1.

    Yields:
        This process. The group (gloo on the CPU, nccl on CUDA) is left afterwards, unless it was there before.

    Raises:
        ProcessLostError: If another process failed or is gone.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    on_cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if on_cuda else torch.device("cpu")
    if on_cuda:
        torch.cuda.set_device(device)
    if size == 1:
        yield Workers(0, 1, device)
        return
    joins = not dist.is_initialized()
    if joins:
        _join("nccl" if on_cuda else "gloo")
    team = Workers(dist.get_rank(), dist.get_world_size(), device, f"subspace_lab {next(_meetings)}")
    try:
        with _sigterm_raises(wanted=joins):
            try:
                yield team
            except BaseException as error:
                _part(team, error)
                raise
    finally:
        if joins:
            dist.destroy_process_group()


def _join(backend: str) -> None:
    """Make the group of all processes, where there may have been another one, whose notes are in the same store."""
    store, rank, size = next(rendezvous("env://", timeout=_PATIENCE))
    own = dist.PrefixStore(f"subspace_lab group {next(_groups)}", store)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=own, rank=rank, world_size=size, timeout=_PATIENCE)


ALONE = Workers(rank=0, size=1, device=torch.device("cpu"))


class _Notes:
    """What the processes of a run tell each other in the store of their group."""

    def __init__(self, team: Workers) -> None:
        self._team = team
        self._store: Any = dist.distributed_c10d._get_default_store()

    def write(self, name: str, text: str) -> None:
        self._store.set(f"{self._team.meeting} {name}", text)

    def has(self, name: str) -> bool:
        return bool(self._store.check([f"{self._team.meeting} {name}"]))

    def read(self, name: str) -> str:
        text: bytes = self._store.get(f"{self._team.meeting} {name}")
        return text.decode()

    def wait_for(self, word: Literal["ended", "parted"], ranks: Sequence[int]) -> list[int]:
        """Wait a little for a note of other processes; those that have not written it."""
        deadline = time.monotonic() + _GRACE_S
        while missing := [rank for rank in ranks if not self.has(f"{word} {rank}")]:
            if time.monotonic() > deadline:
                return missing
            time.sleep(_GLANCE_S)
        return []

    def sentence(self, failures: dict[int, str], missing: Sequence[int] = ()) -> str:
        """Why this process ends."""
        size = self._team.size
        if failures:
            rank, text = next(iter(failures.items()))
            return f"process {rank} of {size} failed, and process {self._team.rank} ends with it: {text}"
        names = ", ".join(map(str, missing))
        return (
            f"process {names} of {size} is gone (killed, or its machine is), or has not answered for "
            f"{_PATIENCE.total_seconds():.0f} s; process {self._team.rank} ends with it: begin again with --resume"
        )


def _part(team: Workers, error: BaseException) -> None:
    """Tell the others why this process ends, and find out whether that is because of another one.

    Raises:
        ProcessLostError: If it is.
    """
    is_lost = isinstance(error, _Terminated) or _is_of_a_collective(error)
    line = (
        f"the {team.size} processes lost each other ({next(iter(str(error).splitlines()), '')}); --resume begins again"
    )
    try:
        found = _compare_notes(team, _LOST if is_lost else next(iter(str(error).splitlines()), repr(error)))
    except RuntimeError:
        found = f"process 0 of {team.size}, which holds the store of all, is gone, and process {team.rank} ends with it"
    if is_lost and found is None and isinstance(error, _Terminated):  # nothing is wrong with anybody
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
    if is_lost:
        raise ProcessLostError(found or line) from None


def _compare_notes(team: Workers, own: str) -> str | None:
    """Write why this process ends; if that is because others are lost, a line about those that were lost first."""
    notes, others, found = _Notes(team), [rank for rank in range(team.size) if rank != team.rank], None
    notes.write(f"ended {team.rank}", own)
    if own == _LOST:
        missing = notes.wait_for("ended", others)
        told = {rank: notes.read(f"ended {rank}") for rank in others if rank not in missing}
        failures = {rank: text for rank, text in told.items() if text != _LOST}
        found = notes.sentence(failures, missing) if failures or missing else None
    notes.write(f"parted {team.rank}", "")
    if team.is_first:  # its process may be the one that holds the store
        notes.wait_for("parted", [rank for rank in others if notes.has(f"ended {rank}")])
    return found


def _is_of_a_collective(error: BaseException) -> bool:
    """Whether an error says that another process did not take part in an exchange."""
    words = ("gloo", "NCCL", "Connection closed", "Connection reset", "Timed out", "timed out", "Broken pipe")
    return (
        isinstance(error, RuntimeError)
        and not isinstance(error, RunError)
        and (isinstance(error, dist.DistError) or any(word in str(error) for word in words))
    )


@contextmanager
def _sigterm_raises(*, wanted: bool) -> Iterator[None]:
    """Have SIGTERM end this process by way of what names the process that is gone."""
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield
        return

    def raised(_signal: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough; torchrun kills what takes too long
        raise _Terminated

    before: Any = signal.signal(signal.SIGTERM, raised)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
