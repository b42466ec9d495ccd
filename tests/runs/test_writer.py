"""Writing a run directory, and going on with one."""

import errno
import json
import multiprocessing
import os
import shutil
import stat

import pytest
import torch
from safetensors import SafetensorError

from subspace_lab.runs import Run, RunWriter
from subspace_lab.runs.lock import lock
from subspace_lab.runs.snapshot import snapshot_path
from tests.runs.build import SHAPES, TALL, WIDE, contents, make_run, mounted, refuses, remount, row, tensors, writer

NAMES = [
    "a/../../b",
    "/abs",
    "..",
    "a:b",
    "a'\"b",
    "<b>&",
    "[red]x",
    "two\nlines",
    "ünï→𝒢",
    " ",
    "\x1b[0m",
    "step_00000001",
]


def write_steps(run, steps, scale=1.0):
    for step in steps:
        run.log({"step": step, "loss": step / 7})
        if step % 10 == 0:
            run.snapshot(step, {name: scale * tensor for name, tensor in tensors(step).items()}, {"loss": step / 7})


def test_the_layout(tmp_path):
    make_run(tmp_path / "deep" / "run")
    files = contents(tmp_path / "deep" / "run")
    assert list(files) == [
        "manifest.json",
        "metrics.jsonl",
        *(f"snapshots/step_000000{n}.safetensors" for n in ("00", "10")),
    ]


def test_every_mode_follows_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        run_dir = make_run(tmp_path / "run")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in run_dir.rglob("*") if path.is_file()} == {0o640}
    assert stat.S_IMODE((run_dir / "snapshots").stat().st_mode) == 0o750


def test_the_manifest_says_whether_the_run_came_to_its_end(tmp_path):
    run = writer(tmp_path / "run")
    assert Run.open(tmp_path / "run").manifest["finished"] is False
    run.close(finished=False)
    assert Run.open(tmp_path / "run").manifest["finished"] is False
    run = writer(tmp_path / "run", resume=True)
    run.close()
    assert Run.open(tmp_path / "run").manifest["finished"] is True
    run.close()


def test_a_second_run_is_refused(tmp_path):
    run_dir = make_run(tmp_path / "run")
    before = contents(run_dir)
    with refuses("already holds a run", "resume it"):
        writer(run_dir)
    assert contents(run_dir) == before


def test_only_an_empty_place_will_do(tmp_path):
    (tmp_path / "file").touch()
    with refuses("is a file"):
        writer(tmp_path / "file")
    with refuses("cannot write", "Not a directory"):
        writer(tmp_path / "file" / "run")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.tex").touch()
    with refuses("is not empty and not a run"):
        writer(tmp_path / "work")
    assert os.listdir(tmp_path / "work") == ["thesis.tex"]
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / ".gitignore").touch()
    writer(tmp_path / "hidden").close()


def test_resuming_needs_a_run(tmp_path):
    with refuses("does not exist"):
        writer(tmp_path / "run", resume=True)
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    whole = writer(tmp_path / "whole")
    write_steps(whole, range(25))
    whole.close()
    first = writer(tmp_path / "cut")
    write_steps(first, range(23))
    first.close(finished=False)
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 23, "lo')
    second = writer(tmp_path / "cut", resume=True)
    second.start_at(15)
    write_steps(second, range(15, 25))
    second.close()
    files, expected = contents(tmp_path / "cut"), contents(tmp_path / "whole")
    del files["manifest.json"], expected["manifest.json"]
    assert files == expected


def test_without_start_at_the_first_line_cuts(tmp_path):
    run = writer(tmp_path / "run")
    write_steps(run, range(8))
    run.close()
    run = writer(tmp_path / "run", resume=True)
    write_steps(run, [5])
    run.close()
    assert Run.open(tmp_path / "run").metrics["step"].tolist() == [0, 1, 2, 3, 4, 5]


def test_a_snapshot_taken_again(tmp_path):
    run_dir = make_run(tmp_path / "run", steps=(0,))
    before = contents(run_dir / "snapshots")
    modified = snapshot_path(run_dir, 0).stat().st_mtime_ns
    run = writer(run_dir, resume=True)
    context = {"loss": 2.0, "nonfinite": {}, "missing": []}
    run.snapshot(0, tensors(0), context)
    with refuses("step_00000000", "in loss (2.0 before, 2.5 now)", "delete the snapshots from step 0 on"):
        run.snapshot(0, tensors(0), {**context, "loss": 2.5})
    with refuses("step_00000000", f"in gradient:{WIDE}"):
        run.snapshot(0, {**tensors(0), f"gradient:{WIDE}": torch.zeros(6, 10)}, context)
    run.close()
    assert contents(run_dir / "snapshots") == before
    assert snapshot_path(run_dir, 0).stat().st_mtime_ns == modified


def test_a_torn_snapshot_is_not_taken_for_the_same(tmp_path):
    run_dir = make_run(tmp_path / "run", steps=(0,))
    os.truncate(snapshot_path(run_dir, 0), 300)
    run = writer(run_dir, resume=True)
    with refuses("torn", "delete it"):
        run.snapshot(0, tensors(0), {})
    run.close()


def test_a_link_is_not_taken_for_a_snapshot(tmp_path):
    run_dir = make_run(tmp_path / "run", steps=(0,))
    snapshot_path(run_dir, 0).rename(tmp_path / "outside")
    snapshot_path(run_dir, 0).symlink_to(tmp_path / "outside")
    snapshot_path(run_dir, 10).symlink_to(tmp_path / "nowhere")
    run = writer(run_dir, resume=True)
    with refuses("leads out of"):
        run.snapshot(0, tensors(0), {})
    run.snapshot(10, tensors(10), {})
    run.close()
    assert not (tmp_path / "nowhere").exists()
    assert not snapshot_path(run_dir, 10).is_symlink()


OTHERWISE = [
    ({"keep": "gram"}, SHAPES, "keep 'full' -> 'gram'"),
    ({"every": 5}, SHAPES, "every 10 -> 5"),
    ({"layers": ("*.o.*",)}, SHAPES, "layers ['*'] -> ['*.o.*']"),
    ({"more": 1}, SHAPES, "more None -> 1"),
    ({}, {**SHAPES, WIDE: (6, 12)}, f"{WIDE} cols 10 -> 12"),
    ({}, {name: shape for name, shape in SHAPES.items() if name != TALL}, f"layer {TALL} is gone"),
    ({}, {**SHAPES, "new\nline": (2, 2)}, "layer new\\nline is new"),
    ({}, {}, "and 1 more"),
]


@pytest.mark.parametrize(("settings", "shapes", "difference"), OTHERWISE, ids=[case[2] for case in OTHERWISE])
def test_resuming_otherwise_is_refused(tmp_path, settings, shapes, difference):
    run_dir = make_run(tmp_path / "run")
    before = contents(run_dir)
    layers = [row(name, shape) for name, shape in shapes.items()]
    with refuses("was captured otherwise", difference, "resume with the same settings"):
        RunWriter(
            run_dir, layers=layers, capture={"every": 10, "keep": "full", "layers": ("*",), **settings}, resume=True
        )
    assert contents(run_dir) == before


def test_another_side_is_named(tmp_path):
    run_dir = make_run(tmp_path / "run", shapes={WIDE: (6, 10)})
    capture = {"every": 10, "keep": "full", "layers": ("*",)}
    with refuses(f"{WIDE} side 'left' -> 'right'"):
        RunWriter(run_dir, layers=[row(WIDE, (6, 10), side="right")], capture=capture, resume=True)


def test_leftovers_of_a_killed_writer_go(tmp_path):
    run_dir = make_run(tmp_path / "run")
    for directory in (run_dir, run_dir / "snapshots"):
        (directory / ".k3j2.partial").mkdir()
        (directory / ".k3j2.partial" / ".tmpAbCdEf").write_bytes(b"half")
    writer(run_dir, resume=True).close()
    assert not list(run_dir.rglob("*.partial"))
    assert Run.open(run_dir).verify() == 2
    fresh = tmp_path / "fresh"
    (fresh / ".k3j2.partial").mkdir(parents=True)  # killed before its manifest was there
    make_run(fresh)
    assert not list(fresh.rglob("*.partial"))


@pytest.mark.parametrize("field", ["layers", "capture", "format", "environment", "finished", "created"])
def test_about_cannot_replace_what_the_run_writes(tmp_path, field):
    with pytest.raises(ValueError, match=f"about must not hold {field}"):
        writer(tmp_path / "run", about={field: 1})
    assert not (tmp_path / "run" / "manifest.json").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        {"capture": {}},
        {"capture": {"keep": "everything"}},
        {"capture": {"keep": "full", "every": 0}},
        {"layers": [{"name": "x"}]},
        {"layers": [row("x", (2, 3), rows=5)]},
        {"layers": [row("x", (2, 3)), row("x", (2, 3))]},
        {"about": {"config": object()}},
        {"capture": {"keep": "full", "layers": {1}}},
    ],
)
def test_what_could_not_be_read_again_is_not_written(tmp_path, arguments):
    with pytest.raises(ValueError, match=r"the run has|cannot be written as JSON"):
        RunWriter(tmp_path / "run", **{"layers": [row("x", (2, 3))], "capture": {"keep": "full"}, **arguments})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("step", [-1, 10**15, 1.5])
def test_steps_that_no_file_can_be_named_after(tmp_path, step):
    run = writer(tmp_path / "run")
    with pytest.raises(ValueError, match="a step must be a whole number"):
        run.snapshot(step, tensors(0), {})
    run.close()
    assert Run.open(tmp_path / "run").steps == []


@pytest.mark.parametrize("context", [{"loss": torch.ones(1)}, {"loss": object()}])
def test_context_that_json_cannot_hold(tmp_path, context):
    run = writer(tmp_path / "run")
    with pytest.raises(ValueError, match="snapshot context cannot be written as JSON"):
        run.snapshot(0, tensors(0), context)
    run.close()
    assert Run.open(tmp_path / "run").steps == []


def test_context_comes_back(tmp_path):
    run = writer(tmp_path / "run")
    context = {"loss": 0.1, 3: "x", "pair": (1, 2), "step": 99}
    for _ in range(2):  # the second time it is compared
        run.snapshot(0, tensors(0), context)
    run.close()
    with Run.open(tmp_path / "run").snapshot(0) as snapshot:
        assert snapshot.context == {"loss": 0.1, "3": "x", "pair": [1, 2], "step": 0}


def test_layer_names_never_become_paths(tmp_path):
    shapes = dict.fromkeys(NAMES, (2, 3))
    run_dir = make_run(tmp_path / "run", shapes=shapes)
    assert sorted(os.listdir(tmp_path)) == ["run"]
    assert sorted(os.listdir(run_dir)) == ["manifest.json", "metrics.jsonl", "snapshots"]
    assert len(os.listdir(run_dir / "snapshots")) == 2
    run = Run.open(run_dir)
    assert run.layers["name"].tolist() == NAMES
    assert run.verify() == 2
    for name in NAMES:
        assert torch.equal(run.gradient(10, name), tensors(10, shapes=shapes)[f"gradient:{name}"])
        with refuses("is not kept"):
            Run.open(make_run(tmp_path / "stats", "stats", shapes=shapes)).gram(10, name)
        shutil.rmtree(tmp_path / "stats")
    writer(run_dir, shapes=shapes, resume=True).close()


def fail_with(number):
    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    return fail


def out_of_space(*args, **kwargs):
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


FAULTS = [
    ("subspace_lab.runs.snapshot.save_file", out_of_space, "No space left on device"),
    ("os.fsync", fail_with(errno.ENOSPC), "No space left on device"),
    ("os.fsync", fail_with(errno.EIO), "Input/output error"),
    ("pathlib.Path.replace", fail_with(errno.ENOSPC), "No space left on device"),
    ("pathlib.Path.chmod", fail_with(errno.EROFS), "Read-only file system"),
    ("os.mkdir", fail_with(errno.EROFS), "Read-only file system"),
]


@pytest.mark.parametrize(("call", "fault", "reason"), FAULTS)
def test_faults_lose_nothing(tmp_path, monkeypatch, call, fault, reason):
    run = writer(tmp_path / "run")
    write_steps(run, range(11))
    before = contents(tmp_path / "run")
    with monkeypatch.context() as patch, refuses("step_00000020.safetensors", reason):
        patch.setattr(call, fault)
        run.snapshot(20, tensors(20), {})
    assert contents(tmp_path / "run") == before
    assert not list((tmp_path / "run").rglob("*.partial"))
    run.snapshot(20, tensors(20), {})
    run.close()
    assert Run.open(tmp_path / "run").verify() == 3


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace", "os.mkdir"])
@pytest.mark.parametrize("resume", [False, True])
def test_faults_at_the_beginning(tmp_path, monkeypatch, call, resume):
    if resume:
        make_run(tmp_path / "run")
    with monkeypatch.context() as patch, refuses("cannot write", "No space left"):
        patch.setattr(call, fail_with(errno.ENOSPC))
        writer(tmp_path / "run", resume=resume)
    writer(tmp_path / "run", resume=resume).close()


def test_a_disk_that_fills_up(tmp_path):
    with mounted(tmp_path / "small", "size=96k") as disk:
        run = writer(disk / "run", shapes={"a": (40, 50)})
        large = {"gradient:a": torch.ones(40, 50)}
        with refuses("No space left"):
            for step in range(0, 200, 10):
                run.snapshot(step, large, {})
        published = os.listdir(disk / "run" / "snapshots")
        assert published
        with refuses("metrics.jsonl", "No space left"):
            for step in range(10_000):
                run.log({"step": step, "note": "x" * 200})
        with refuses("manifest.json", "No space left"):
            run.close()
        assert Run.open(disk / "run").manifest["finished"] is False
        assert os.listdir(disk / "run" / "snapshots") == published
        assert Run.open(disk / "run").verify() == len(published)
        assert Run.open(disk / "run").metrics["step"].tolist()[:2] == [0, 1]
        snapshot_path(disk / "run", 0).unlink()
        run = writer(disk / "run", shapes={"a": (40, 50)}, resume=True)
        run.start_at(0)
        run.snapshot(0, large, {})
        run.close()
        assert Run.open(disk / "run").verify() == len(published)


def test_a_read_only_disk(tmp_path):
    with mounted(tmp_path / "small", "size=1m") as disk:
        make_run(disk / "run")
        remount(disk, "ro")
        for path, resume in ((disk / "run", True), (disk / "new", False)):
            with refuses("cannot write", "Read-only file system"):
                writer(path, resume=resume)
        assert Run.open(disk / "run").verify() == 2


def hold(run_dir, line):
    """Another process that writes the run, and forks a child as data loaders do; both live until the line is cut."""
    run = writer(run_dir, resume=True)
    if os.fork() == 0:
        line.poll(60)
        os._exit(0)
    line.send("holding")
    line.poll(60)
    run.close()


def test_one_process_at_a_time(tmp_path):
    run_dir = make_run(tmp_path / "run")
    context = multiprocessing.get_context("spawn")
    line, other_end = context.Pipe()
    other = context.Process(target=hold, args=(run_dir, other_end))
    other.start()
    other_end.close()
    try:
        assert line.poll(60)
        assert line.recv() == "holding"
        with refuses("is being written by another process", "stop it first"):
            writer(run_dir, resume=True)
        assert Run.open(run_dir).verify() == 2
        other.kill()
        other.join()
        writer(run_dir, resume=True).close()  # though the child of the killed one lives on
    finally:
        line.close()
        other.kill()
    assert not (run_dir / ".lock").exists()


def test_another_run_that_came_first_is_not_written_over(tmp_path, monkeypatch):
    other = make_run(tmp_path / "other")
    before = contents(other)

    def lock_late(run_dir):
        other.rename(run_dir)
        return lock(run_dir)

    monkeypatch.setattr("subspace_lab.runs.writer.lock", lock_late)
    with refuses("already holds a run"):
        writer(tmp_path / "run")
    assert contents(tmp_path / "run") == before


def test_the_same_process_may_take_over(tmp_path):
    first = writer(tmp_path / "run")
    write_steps(first, range(5))
    second = writer(tmp_path / "run", resume=True)
    second.start_at(5)
    write_steps(second, range(5, 8))
    second.close()
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 7


def test_the_lock_is_no_link_out_of_the_run(tmp_path):
    run_dir = make_run(tmp_path / "run")
    (run_dir / ".lock").symlink_to(tmp_path / "outside")
    with refuses("cannot write"):
        writer(run_dir, resume=True)
    assert not (tmp_path / "outside").exists()


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    monkeypatch.setattr("fcntl.flock", fail_with(errno.ENOLCK))
    assert Run.open(make_run(tmp_path / "run")).verify() == 2
