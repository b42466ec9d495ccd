"""What becomes of a cell that does not come to its end, and what a record says of memory."""

import os
import resource

import pytest
import torch

from subspace_lab.comparison import cell as cell_module
from subspace_lab.comparison.cell import run_cell
from subspace_lab.comparison.local import _reason
from subspace_lab.comparison.record import Record, peak_memory, read_record, record_path, write_record
from subspace_lab.comparison.sweep import _died
from subspace_lab.runs import Run
from subspace_lab.training import DivergedError, train


def allocate_too_much():
    torch.empty(1 << 58, dtype=torch.uint8)


def raise_it(error):
    raise error


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
    monkeypatch.setattr(cell_module, "_train", lambda *_, **__: failure())
    if status == "diverged":
        monkeypatch.chdir(tmp_path)
        tmp_path = type(tmp_path)()
    run_cell(str(tmp_path), "x", settings().to_dict(), 2)
    record = read_record(record_path(tmp_path, "x"))
    assert (record.status, record.attempts, record.state_bytes) == (status, 2, None)
    assert record.reason.startswith(reason)
    assert "\n" not in record.reason


def test_one_of_several_processes_that_fails_ends_itself_and_leaves_the_record_to_the_first(
    tmp_path, monkeypatch, settings
):
    """Had it returned, torchrun would think it done, and the others would wait for it."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(cell_module, "_train", lambda *_, **__: raise_it(RuntimeError("no luck")))
    with pytest.raises(RuntimeError, match="no luck"):
        run_cell(str(tmp_path), "a", settings().to_dict(), 1, resume=False)
    assert not record_path(tmp_path, "a").exists()


def test_a_run_that_ended_before_its_record_was_written_is_complete(tmp_path, settings):
    config = settings(steps=2, every=None, optimizer="grasswalk", threads=1)
    train(tmp_path / "x", config)
    before = Run.open(tmp_path / "x").metrics
    run_cell(str(tmp_path), "x", config.to_dict(), 1)
    record = read_record(record_path(tmp_path, "x"))
    assert (record.status, record.reason) == ("complete", "")
    assert record.state_bytes > 1e6
    assert Run.open(tmp_path / "x").metrics.equals(before)


def test_the_peak_of_earlier_attempts_counts(tmp_path, monkeypatch, settings):
    write_record(record_path(tmp_path, "x"), Record("cut", "", 1, peak_bytes=1 << 50, base_bytes=77))
    monkeypatch.setattr(cell_module, "_train", lambda *_, **__: raise_it(RuntimeError("no")))
    run_cell(str(tmp_path), "x", settings().to_dict(), 2)
    record = read_record(record_path(tmp_path, "x"))
    assert (record.peak_bytes, record.base_bytes) == (1 << 50, 77)


def test_on_a_gpu_the_peak_is_the_allocators_since_the_cell_began(tmp_path, monkeypatch, settings):
    allocator = {"peak": 1 << 50}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: allocator.update(peak=0))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: allocator["peak"])
    monkeypatch.setattr(cell_module, "_train", lambda *_, **__: allocator.update(peak=1234))
    monkeypatch.setattr(cell_module, "state_bytes", lambda _: 99)
    run_cell(str(tmp_path), "x", settings().to_dict(), 1)
    record = read_record(record_path(tmp_path, "x"))
    assert (record.peak_bytes, record.base_bytes, record.state_bytes) == (1234, 0, 99)


def test_the_peak_is_that_of_the_process():
    held = torch.ones(30_000_000)
    peak = peak_memory()
    assert peak >= held.nbytes
    assert peak == pytest.approx(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, rel=0.02)


@pytest.mark.parametrize(
    ("status", "reason", "becomes"),
    [
        (-9, "killed by SIGKILL, perhaps by the system for want of memory", "killed"),
        (-11, "killed by SIGSEGV", "killed"),
        (3, "ended with status 3 and left no record", "failed"),
        (0, "", "failed"),
    ],
)
def test_a_process_that_left_no_record(status, reason, becomes):
    assert _reason(status) == reason
    record = _died(Record(attempts=1, peak_bytes=5), reason, 2)
    assert (record.status, record.attempts, record.peak_bytes) == (becomes, 2, 5)
    assert record.reason


@pytest.mark.parametrize("text", ["", "{", "[]", '{"status": "complete", "unknown": 1}'])
def test_a_broken_record_is_that_of_a_cell_that_was_not_begun(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    assert read_record(tmp_path / "x.json") == Record()
    os.unlink(tmp_path / "x.json")
    assert read_record(tmp_path / "x.json") == Record()
