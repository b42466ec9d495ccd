"""metrics.jsonl."""

import errno
import json
import math
import os

import pytest

from subspace_lab.runs import Run
from subspace_lab.runs.metrics import MetricsLog, read_metrics, read_numbers
from tests.runs.build import make_run, mounted, refuses

ROWS = [{"step": step, "loss": 1 / (step + 3), "note": "ü\n"} for step in range(5)]


@pytest.fixture
def path(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for row in ROWS:
        log.append(row)
    log.close()
    return tmp_path / "metrics.jsonl"


def test_round_trip(path):
    assert read_metrics(path) == ROWS
    assert len(path.read_bytes().splitlines()) == len(ROWS)


def test_a_missing_file_has_no_lines(tmp_path):
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_every_line_is_there_before_the_file_is_closed(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for number, row in enumerate(ROWS, start=1):
        log.append(row)
        assert len(read_metrics(tmp_path / "metrics.jsonl")) == number
    log.close()
    log.close()


def test_numbers_that_are_not_finite(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append({"step": 0, "loss": math.nan, "grad_norm": math.inf})
    log.close()
    (row,) = read_metrics(tmp_path / "metrics.jsonl")
    assert math.isnan(row["loss"])
    assert row["grad_norm"] == math.inf


def test_torn_at_every_length(path):
    whole = path.read_bytes()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        assert read_metrics(path) == ROWS[: whole[:length].count(b"\n")]


def test_torn_by_a_power_cut(path):
    path.write_bytes(path.read_bytes() + bytes(100))
    assert read_metrics(path) == ROWS


STEPS = ["null", '"1"', "1.5", "true", "NaN", "Infinity", "-1", "1e3", "[1]", "9" * 40, "9" * 9999, '1, "a": "\udcff"']
BROKEN = ["", "{", "[]", "3", "null", '"step"', "{}", "[" * 50_000, "\0\0", *(f'{{"step": {step}}}' for step in STEPS)]


@pytest.mark.parametrize("line", BROKEN, ids=lambda line: line[:18])
def test_a_broken_line_in_the_middle_is_named(path, line):
    lines = path.read_bytes().split(b"\n")
    lines[2] = line.encode("utf-8", "surrogateescape")
    path.write_bytes(b"\n".join(lines))
    with refuses("metrics.jsonl, line 3", "repair or remove"):
        read_metrics(path)
    with refuses("line 3"):
        MetricsLog(path, before=2)


def test_resuming_cuts_what_will_be_written_again(path):
    path.write_bytes(path.read_bytes() + b'{"step": 5, "lo')
    log = MetricsLog(path, before=3)
    log.append({"step": 3, "loss": 0.0})
    log.close()
    assert read_metrics(path) == [*ROWS[:3], {"step": 3, "loss": 0.0}]


def test_going_on_without_cutting_mends_the_torn_line(path):
    path.write_bytes(path.read_bytes() + b'{"step": 5, "lo')
    log = MetricsLog(path)
    log.append({"step": 5})
    log.close()
    assert read_metrics(path) == [*ROWS, {"step": 5}]


def test_cut_lines_come_back_to_the_digit(path):
    before = path.read_bytes()
    MetricsLog(path, before=10).close()
    assert path.read_bytes() == before


@pytest.mark.parametrize("value", [object(), {1}, b"x"])
def test_values_that_json_cannot_hold_leave_no_trace(path, value):
    before = path.read_bytes()
    log = MetricsLog(path)
    with pytest.raises(ValueError, match=r"metrics of step 7: .* give plain numbers"):
        log.append({"step": 7, "loss": value})
    log.close()
    assert path.read_bytes() == before


@pytest.mark.parametrize("written", [None, 0, 3])
def test_a_line_that_does_not_fit_is_taken_back(path, monkeypatch, written):
    before = path.read_bytes()
    log = MetricsLog(path)

    class Full:
        def __init__(self, file):
            self.tell, self.truncate, self.close = file.tell, file.truncate, file.close
            self._file = file

        def write(self, line):
            if written is None:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self._file.write(line[:written])

    monkeypatch.setattr(log, "_file", Full(log._file))
    with refuses("metrics.jsonl", "No space left"):
        log.append({"step": 9})
    monkeypatch.undo()
    assert path.read_bytes() == before
    log.append({"step": 9})
    log.close()
    assert read_metrics(path) == [*ROWS, {"step": 9}]


def test_a_full_disk_keeps_whole_lines_only(tmp_path):
    with mounted(tmp_path / "small", "size=16k") as disk:
        log = MetricsLog(disk / "metrics.jsonl")
        rows = [{"step": step, "note": "x" * 900} for step in range(40)]
        with refuses("No space left"):
            for row in rows:
                log.append(row)
        log.close()
        kept = (disk / "metrics.jsonl").read_bytes()
        assert kept.endswith(b"\n")
        assert read_metrics(disk / "metrics.jsonl") == rows[: kept.count(b"\n")]
        assert kept.count(b"\n") > 5
        os.truncate(disk / "metrics.jsonl", 0)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_not_a_file(tmp_path, make):
    make(tmp_path / "metrics.jsonl")
    with refuses("is not a file"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_as_a_table(tmp_path):
    run_dir = make_run(tmp_path / "run", steps=(0, 10))
    table = Run.open(run_dir).metrics
    assert table["step"].tolist() == [0, 10]
    assert table["loss"].tolist() == [2.0, 1.9]
    (run_dir / "metrics.jsonl").write_text("")
    assert Run.open(run_dir).metrics["step"].tolist() == []
    (run_dir / "metrics.jsonl").write_text(json.dumps({"step": 3}) + "\n" + json.dumps({"step": 4, "loss": 1.0}) + "\n")
    assert Run.open(run_dir).metrics["loss"].isna().tolist() == [True, False]


@pytest.mark.parametrize("value", ["n/a", "3.5", "", [1.0], {"a": 1}, True, 2**70, 10**400])
def test_a_value_that_is_not_a_number_is_named_by_file_step_and_metric(path, value):
    MetricsLog(path).append({"step": 5, "eval_loss": value, "note": value})
    assert read_metrics(path)[5]["note"] == value
    assert len(read_numbers(path, ["loss"])) == 6
    with refuses(str(path), "step 5: eval_loss is", "not a number"):
        read_numbers(path, ["loss", "eval_loss"])


@pytest.mark.parametrize("value", [None, math.inf, 3, 1.5])
def test_numbers_may_be_missing_or_infinite(path, value):
    MetricsLog(path).append({"step": 5, "loss": value})
    assert read_numbers(path, ["loss"])[5] == {"step": 5, "loss": value}


def test_whole_numbers(path):
    MetricsLog(path).append({"step": 5, "tokens": 1.5})
    with refuses("step 5: tokens is '1.5'"):
        read_numbers(path, ["tokens"], whole={"tokens"})


def test_curves_of_a_run_are_numbers(tmp_path):
    run = Run.open(make_run(tmp_path / "run"))
    lines = ['{"step": 0, "loss": 2, "note": "a"}', '{"step": 1, "eval_loss": Infinity}']
    (run.path / "metrics.jsonl").write_text("".join(line + "\n" for line in lines))
    curves = run.curves("loss", "eval_loss")
    assert list(curves.columns) == ["step", "loss", "eval_loss"]
    assert list(curves["loss"].fillna(-1)) == [2.0, -1.0]
    assert list(curves["eval_loss"].fillna(-1)) == [-1.0, math.inf]
    (run.path / "metrics.jsonl").write_text("")
    assert run.curves("loss").empty
