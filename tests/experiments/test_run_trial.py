"""What becomes of a trial that is not completed, and what its outcome says of memory."""

import dataclasses
import os
import resource
from pathlib import Path

import pytest
import torch

from subspace_lab.experiments.executors.base import Ended, Request
from subspace_lab.experiments.executors.local import _ended
from subspace_lab.experiments.outcome import Outcome, outcome_path, peak_memory, read_outcome, write_outcome
from subspace_lab.experiments.recipe import RECIPES, Measured
from subspace_lab.experiments.run_trial import run_trial
from subspace_lab.experiments.schedule import _without_word
from subspace_lab.runs import Run
from subspace_lab.training import DivergedError, train


def allocate_too_much():
    torch.empty(1 << 58, dtype=torch.uint8)


def raise_it(error):
    raise error


class Does:
    """A recipe that calls something."""

    def __init__(self, what):
        self.what = what

    def run(self, *_, **__):
        return self.what() or Measured({}, 99)


def request(path, config, attempt, **more):
    return Request(str(path), "x", "train", config.to_dict(), attempt=attempt, **more)


@pytest.mark.parametrize(
    ("failure", "status", "reason"),
    [
        (allocate_too_much, "failed", "out of memory: "),
        (lambda: raise_it(MemoryError()), "failed", "out of memory"),
        (lambda: raise_it(torch.OutOfMemoryError("CUDA out of memory.\nmore")), "failed", "out of memory: CUDA"),
        (lambda: raise_it(RuntimeError("no luck\nmore")), "failed", "RuntimeError: no luck"),
        (lambda: raise_it(DivergedError("x diverged at step 3: loss nan; smaller")), "diverged", "at step 3: loss nan"),
    ],
)
def test_the_reason_is_one_line(failure, status, reason, tmp_path, monkeypatch, settings):
    monkeypatch.setitem(RECIPES, "train", Does(failure))
    if status == "diverged":
        monkeypatch.chdir(tmp_path)
        tmp_path = type(tmp_path)()
    run_trial(request(tmp_path, settings(), 2))
    record = read_outcome(tmp_path, "x")
    assert (record.status, record.attempts, record.state_bytes) == (status, 2, None)
    assert record.reason.startswith(reason)
    assert "\n" not in record.reason


def test_one_of_several_processes_that_fails_ends_itself_and_leaves_the_record_to_the_first(
    tmp_path, monkeypatch, settings
):
    """Had it returned, torchrun would think it done, and the others would wait for it."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setitem(RECIPES, "train", Does(lambda: raise_it(RuntimeError("no luck"))))
    with pytest.raises(RuntimeError, match="no luck"):
        run_trial(request(tmp_path, settings(), 1, resume=False))
    assert not outcome_path(tmp_path, "x").exists()


def test_a_run_that_ended_before_its_record_was_written_is_complete(tmp_path, settings):
    config = settings(steps=2, every=None, optimizer="grasswalk", threads=1)
    train(tmp_path / "x", config)
    before = Run.open(tmp_path / "x").metrics
    run_trial(request(tmp_path, config, 1))
    record = read_outcome(tmp_path, "x")
    assert (record.status, record.reason) == ("complete", "")
    assert record.state_bytes > 1e6
    assert Run.open(tmp_path / "x").metrics.equals(before)


@pytest.mark.parametrize("left", [0, 1])
def test_killed_while_its_checkpoints_are_removed_a_trial_is_complete(tmp_path, settings, monkeypatch, left):
    """Between the removal of the last one and the record, too."""
    config = settings(steps=3, every=None, optimizer="grasswalk", threads=1, checkpoint_every=1)
    run_trial(dataclasses.replace(request(tmp_path, config, 1), name="whole"))
    whole, unlink = read_outcome(tmp_path, "whole"), Path.unlink

    def killed(path, **options):
        unlink(path, **options)
        if path.parent.name == "checkpoints" and len([*path.parent.iterdir()]) == left:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            run_trial(request(tmp_path, config, 1))
    assert not outcome_path(tmp_path, "x").exists()
    assert len([*(tmp_path / "x" / "checkpoints").iterdir()]) == left
    run_trial(request(tmp_path, config, 1))
    record = read_outcome(tmp_path, "x")
    assert (record.status, record.metrics, record.state_bytes) == ("complete", whole.metrics, whole.state_bytes)


def test_the_peak_of_earlier_attempts_counts(tmp_path, monkeypatch, settings):
    write_outcome(tmp_path, "x", Outcome("cut", "", 1, peak_bytes=1 << 50, base_bytes=77))
    monkeypatch.setitem(RECIPES, "train", Does(lambda: raise_it(RuntimeError("no"))))
    run_trial(request(tmp_path, settings(), 2))
    record = read_outcome(tmp_path, "x")
    assert (record.peak_bytes, record.base_bytes) == (1 << 50, 77)


def test_on_a_gpu_the_peak_is_the_allocators_since_the_cell_began(tmp_path, monkeypatch, settings):
    allocator = {"peak": 1 << 50}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: allocator.update(peak=0))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: allocator["peak"])
    monkeypatch.setitem(RECIPES, "train", Does(lambda: allocator.update(peak=1234)))
    run_trial(request(tmp_path, settings(), 1))
    record = read_outcome(tmp_path, "x")
    assert (record.peak_bytes, record.base_bytes, record.state_bytes) == (1234, 0, 99)


def test_the_peak_is_that_of_the_process():
    held = torch.ones(30_000_000)
    peak = peak_memory()
    assert peak >= held.nbytes
    assert peak == pytest.approx(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, rel=0.02)


@pytest.mark.parametrize(
    ("status", "ended", "becomes"),
    [
        (-9, Ended("killed", "killed by SIGKILL, perhaps by the system because memory ran out"), "killed"),
        (-11, Ended("killed", "killed by SIGSEGV"), "killed"),
        (3, Ended("failed", "ended with status 3"), "failed"),
        (0, Ended("finished"), "failed"),
    ],
)
def test_a_process_that_left_no_record(status, ended, becomes):
    assert _ended(status) == ended
    record = _without_word(Outcome(attempts=1, peak_bytes=5), ended, 2)
    assert (record.status, record.attempts, record.peak_bytes) == (becomes, 2, 5)
    assert record.reason
    assert record.reason.endswith("left no record") == (becomes == "failed")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"status": "complete", "unknown": 1}'])
def test_a_broken_record_is_that_of_a_trial_that_was_not_begun(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    assert read_outcome(tmp_path, "x") == Outcome()
    os.unlink(tmp_path / "x.json")
    assert read_outcome(tmp_path, "x") == Outcome()
