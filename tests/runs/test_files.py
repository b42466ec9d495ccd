"""Publishing files, whole or not at all."""

import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from subspace_lab.runs import Run
from subspace_lab.runs.files import confined, publish, publish_json, remove_partial
from tests.runs.build import contents, make_run, mounted, refuses, remount


def fail_with(number):
    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    return fail


def test_the_file_appears_whole_and_alone(tmp_path):
    path = tmp_path / "deep" / "down" / "file.json"
    publish_json(path, {"a": [1, 2.5, "é"]})
    assert json.loads(path.read_text()) == {"a": [1, 2.5, "é"]}
    assert path.read_text().endswith("}\n")
    assert os.listdir(path.parent) == ["file.json"]


def test_the_file_and_then_its_directory_reach_the_disk(tmp_path, monkeypatch):
    """A rename that is not flushed is lost with the power, and the file with it."""
    path = tmp_path / "file.json"
    flushed = []

    def fsync(descriptor):
        about = os.fstat(descriptor)
        flushed.append((stat.S_ISDIR(about.st_mode), about.st_ino, path.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    publish_json(path, {"a": 1})
    assert flushed == [(False, path.stat().st_ino, False), (True, tmp_path.stat().st_ino, True)]


def test_nothing_is_seen_before_it_is_whole(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with publish(path) as aside:
        aside.write_text("new")
        assert path.read_text() == "old"
        assert aside.name == "file"
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("old")

    def write():
        with publish(path) as aside:
            aside.write_text("half")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_the_mode_follows_the_umask_even_if_the_writer_makes_its_own_file(tmp_path, umask):
    before = os.umask(umask)
    try:
        with publish(tmp_path / "file") as aside:
            aside.unlink()
            os.close(os.open(aside, os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("call", ["os.fsync", "os.rename", "os.mkdir", "pathlib.Path.replace", "pathlib.Path.touch"])
def test_every_failing_call_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, call, number):
    path = tmp_path / "new" / "file" if call == "os.mkdir" else tmp_path / "file"
    monkeypatch.setattr(call, fail_with(number))
    if call == "os.rename":  # not what we call
        monkeypatch.setattr("os.replace", fail_with(number))
    with refuses(f"cannot write {path}", os.strerror(number)), publish(path) as aside:
        aside.write_text("content")
    monkeypatch.undo()
    assert os.listdir(tmp_path) == []


def test_a_writer_out_of_space_is_one_line(tmp_path):
    with refuses("cannot write", "No space left"), publish(tmp_path / "file") as aside:
        aside.write_text("half")
        raise OSError(errno.ENOSPC, "Error writing bytes to file.\nDetail: none")
    assert os.listdir(tmp_path) == []


def test_a_full_disk(tmp_path):
    with mounted(tmp_path / "small", "size=64k") as disk:
        publish_json(disk / "kept.json", {})
        with refuses("No space left"), publish(disk / "large") as aside:
            aside.write_bytes(bytes(100_000))
        assert os.listdir(disk) == ["kept.json"]


def test_a_read_only_disk(tmp_path):
    with mounted(tmp_path / "small", "size=64k") as disk:
        remount(disk, "ro")
        with refuses("Read-only"):
            publish_json(disk / "new.json", {})
        assert os.listdir(disk) == []


def test_a_parent_that_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    with refuses("cannot write"):
        publish_json(tmp_path / "file" / "new.json", {})


def test_leftovers_of_killed_writers_are_removed_and_nothing_else(tmp_path):
    run_dir, outside = tmp_path / "run", tmp_path / "outside"
    for directory in (run_dir / ".k3j2.partial", run_dir / "snapshots" / ".x.partial", outside / ".y.partial"):
        directory.mkdir(parents=True)
        (directory / "file").touch()
    (run_dir / "link").symlink_to(outside)
    (run_dir / ".z.partial").symlink_to(outside)
    (run_dir / "notes.partial").touch()
    (run_dir / ".hidden").mkdir()
    remove_partial(run_dir)
    assert sorted(os.listdir(run_dir)) == [".hidden", ".z.partial", "link", "notes.partial", "snapshots"]
    assert os.listdir(run_dir / "snapshots") == []
    assert (outside / ".y.partial" / "file").exists()


def test_leftovers_that_cannot_be_removed(tmp_path, monkeypatch):
    (tmp_path / ".x.partial").mkdir()
    monkeypatch.setattr("shutil.rmtree", fail_with(errno.EROFS))
    with refuses("Read-only"):
        remove_partial(tmp_path)


def test_confined(tmp_path):
    run_dir = tmp_path / "run"
    (run_dir / "real").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (run_dir / "inner").symlink_to(run_dir / "real")
    (run_dir / "outer").symlink_to(tmp_path / "outside")
    (run_dir / "circle").symlink_to(run_dir / "circle")
    (tmp_path / "alias").symlink_to(run_dir)
    for path in (run_dir / "real", run_dir / "missing", run_dir / "inner" / "file"):
        assert confined(run_dir, path) == path
    assert confined(tmp_path / "alias", tmp_path / "alias" / "real")
    for name in ("outer", "outer/file", "../outside", "circle"):
        with refuses("leads out of"):
            confined(run_dir, run_dir / name)


def test_confined_is_not_fooled_by_a_common_beginning(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run2").mkdir()
    (tmp_path / "run" / "snapshots").symlink_to(Path("..") / "run2")
    with refuses("leads out of"):
        confined(tmp_path / "run", tmp_path / "run" / "snapshots")


KILLED = """
import os, signal, sys, time
from pathlib import Path
from subspace_lab.runs.files import publish
with publish(Path(sys.argv[1])) as aside:
    aside.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_the_next_analysis_removes_what_a_killed_one_left_and_not_what_is_written_now(tmp_path):
    run_dir = make_run(tmp_path / "run")
    before = contents(run_dir)
    for name in ("analysis/energy.parquet", "report.html"):
        with subprocess.Popen([sys.executable, "-c", KILLED, run_dir / name], stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"writing\n"
            Run.open(run_dir, write=True)
            assert len(list(run_dir.rglob(".*.partial"))) == 1  # it is alive
            process.kill()
            process.wait()
            Run.open(run_dir)  # reading removes nothing
            assert len(list(run_dir.rglob(".*.partial"))) == 1
            Run.open(run_dir, write=True)
            assert not list(run_dir.rglob(".*.partial"))
    assert contents(run_dir) == before
