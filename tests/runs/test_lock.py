"""One writer at a time, whatever processes do at the same moment."""

import errno
import gc
import multiprocessing
import os
import shutil
import subprocess
import sys
import time

import pytest

from subspace_lab.runs import Run, RunError, RunLostError
from subspace_lab.runs.lock import lock, unlock
from tests.runs.build import make_run, refuses, tensors, writer


def contend(run_dir, seconds, line):
    """Take the lock again and again; the holder alone may make a file that others would find."""
    inside, taken, met = run_dir / "inside", 0, 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            held = lock(run_dir)
        except RunError:
            continue
        taken += 1
        try:
            os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            met += 1
        else:
            inside.unlink(missing_ok=True)
        unlock(held)
    line.send((taken, met))


def test_two_writers_never_hold_one_run(tmp_path):
    context = multiprocessing.get_context("fork")
    lines, processes = [], []
    for _ in range(4):
        here, there = context.Pipe()
        processes.append(context.Process(target=contend, args=(tmp_path, 2.0, there)))
        lines.append(here)
    for process in processes:
        process.start()
    counts = [line.recv() if line.poll(60) else None for line in lines]
    for process in processes:
        process.join(60)
    assert all(count is not None for count in counts), counts
    assert sum(taken for taken, _ in counts) > 100
    assert sum(met for _, met in counts) == 0
    assert not (tmp_path / ".lock").exists()


def test_a_file_opened_before_it_was_given_up_is_no_lock(tmp_path):
    """The interleaving that let two in: one opens, the holder gives up, a third one locks what is there now."""
    held = lock(tmp_path)
    waiting = os.open(tmp_path / ".lock", os.O_RDWR)  # what a process that waits has open
    unlock(held)
    third = lock(tmp_path)
    assert os.fstat(waiting).st_nlink == 0  # by which filelock tells that it locked a file without a name
    assert not os.path.samestat(os.fstat(waiting), os.stat(tmp_path / ".lock"))
    os.close(waiting)
    unlock(third)


HOLD = """
import os, sys, time
from pathlib import Path
from subspace_lab.runs.lock import lock
held = lock(Path(sys.argv[1]))
if sys.argv[2] == "fork" and os.fork() == 0:
    os.close(1)
    time.sleep(60)
print("holding", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("how", ["alone", "fork"])
def test_a_lock_dies_with_its_process(tmp_path, how):
    command = [sys.executable, "-c", HOLD, str(tmp_path), how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout.readline() == b"holding\n"
        with refuses("is being written by another process"):
            lock(tmp_path)
        process.kill()
        process.wait()
        unlock(lock(tmp_path))
        os.killpg(process.pid, 9) if how == "fork" else None


def test_a_forked_child_neither_holds_nor_gives_up(tmp_path):
    held = lock(tmp_path)
    if (child := os.fork()) == 0:
        try:
            lock(tmp_path)
        except RunError:
            unlock(held)
            os._exit(0 if (tmp_path / ".lock").exists() else 2)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert held.is_held
    assert (tmp_path / ".lock").exists()
    unlock(held)
    assert not (tmp_path / ".lock").exists()


def test_only_writers_of_runs_take_over(tmp_path):
    first = lock(tmp_path)
    with refuses("is being written by this process already"):
        lock(tmp_path, take_over=False)
    second = lock(tmp_path)
    assert (first.is_held, second.is_held) == (False, True)
    unlock(first)
    assert (tmp_path / ".lock").exists()
    unlock(second)
    unlock(second)
    assert not (tmp_path / ".lock").exists()
    unlock(lock(tmp_path, take_over=False))


def test_a_writer_that_nobody_has_any_more_holds_nothing(tmp_path):
    lock(tmp_path)
    gc.collect()
    unlock(lock(tmp_path, take_over=False))


def test_a_writer_that_was_taken_over_writes_no_more(tmp_path):
    first = writer(tmp_path / "run")
    first.log({"step": 0})
    second = writer(tmp_path / "run", resume=True)
    second.start_at(5)
    for write in (lambda: first.log({"step": 1}), lambda: first.snapshot(0, tensors(0), {}), first.close, first.close):
        with pytest.raises(RunLostError, match="a later writer of this process took it over; use that one"):
            write()
    assert (tmp_path / "run" / ".lock").exists()
    second.log({"step": 5})
    second.close()
    second.close()
    assert Run.open(tmp_path / "run").metrics["step"].tolist() == [0, 5]
    assert not (tmp_path / "run" / ".lock").exists()


def test_the_lock_of_a_directory_in_ones_place_stays(tmp_path):
    run = writer(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    second = writer(tmp_path / "run")  # the same process, the same path, another directory
    with pytest.raises(RunLostError):
        run.close()
    assert (tmp_path / "run" / ".lock").exists()
    with refuses("is being written by this process already"):
        lock(tmp_path / "run", take_over=False)
    second.close()


@pytest.mark.parametrize("make", [os.mkdir, lambda path: path.symlink_to("elsewhere")])
def test_what_is_no_file_is_no_lock(tmp_path, make):
    run_dir = make_run(tmp_path / "run")
    make(run_dir / ".lock")
    with refuses("cannot write"):
        writer(run_dir, resume=True)
    assert not (run_dir / "elsewhere").exists()


def test_a_pipe_does_not_block(tmp_path):
    run_dir = make_run(tmp_path / "run")
    os.mkfifo(run_dir / ".lock")
    unlock(lock(run_dir))


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(tmp_path, monkeypatch, number):
    def flock(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    assert Run.open(make_run(tmp_path / "run")).verify() == 2
