"""A run directory that is removed, moved, replaced or taken over while it is written."""

import json
import os
import shutil
import uuid

import pytest

from subspace_lab.runs import Run, RunLostError
from tests.runs.build import contents, make_run, refuses, tensors, writer


def removed(run_dir):
    shutil.rmtree(run_dir)


def moved(run_dir):
    run_dir.rename(run_dir.with_name("elsewhere"))


def new_run(run_dir):
    shutil.rmtree(run_dir)
    make_run(run_dir, steps=(0, 10))


def other_run_moved_here(run_dir):
    other = make_run(run_dir.with_name("other"), steps=(0,))
    shutil.rmtree(run_dir)
    other.rename(run_dir)


def copy_of_itself(run_dir):
    run_dir.rename(run_dir.with_name("kept"))
    shutil.copytree(run_dir.with_name("kept"), run_dir)


def link_to_another(run_dir):
    other = make_run(run_dir.with_name("other"), steps=(0,))
    shutil.rmtree(run_dir)
    run_dir.symlink_to(other)


def file_in_its_place(run_dir):
    shutil.rmtree(run_dir)
    run_dir.write_text("mine")


def empty_directory(run_dir):
    shutil.rmtree(run_dir)
    run_dir.mkdir()


def files_replaced(run_dir):
    other = make_run(run_dir.with_name("other"), steps=(0,))
    for name in ("snapshots", "manifest.json", "metrics.jsonl"):
        path = run_dir / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        (other / name).rename(path)


CHANGES = [removed, moved, new_run, other_run_moved_here, copy_of_itself, link_to_another, file_in_its_place,
           empty_directory, files_replaced]  # fmt: skip


def everything(root):
    """Directories, and files with their bytes, other than the lock that the writer gives up."""
    files = contents(root)
    files.pop("run/.lock", None)
    return files, sorted(path for path in root.rglob("*") if path.is_dir())


WRITES = {
    "log": lambda run: run.log({"step": 30}),
    "snapshot": lambda run: run.snapshot(30, tensors(30), {}),
    "same snapshot": lambda run: run.snapshot(0, tensors(0), {}),
    "start": lambda run: run.start_at(0),
    "close": lambda run: run.close(),
}


@pytest.mark.parametrize("change", CHANGES, ids=[change.__name__ for change in CHANGES])
def test_nothing_is_written_to_what_is_not_ones_own(tmp_path, change):
    runs = {name: writer(tmp_path / name / "run") for name in WRITES}
    for name, write in WRITES.items():
        run, root = runs[name], tmp_path / name
        for step in (0, 10, 20):
            run.log({"step": step})
            run.snapshot(step, tensors(step), {})
        change(root / "run")
        before = everything(root)
        for _ in range(2):  # a second time as well
            with pytest.raises(RunLostError, match="while it was being written; nothing more is written there") as lost:
                write(run)
            assert str(lost.value).isprintable()
        assert everything(root) == before


def test_what_others_may_do_meanwhile(tmp_path, monkeypatch):
    run = writer(tmp_path / "run")
    run.log({"step": 0})
    os.utime(tmp_path / "run" / "manifest.json")
    os.chmod(tmp_path / "run" / "manifest.json", 0o600)
    run.log({"step": 1})
    path = tmp_path / "run" / "manifest.json"
    copy = path.with_name("manifest.copy")
    shutil.copy(path, copy)
    copy.replace(path)  # an editor that saves
    run.log({"step": 2})
    (tmp_path / "run").rename(tmp_path / "away")
    (tmp_path / "away").rename(tmp_path / "run")
    run.log({"step": 3})
    monkeypatch.chdir(tmp_path)
    inner = writer("relative")
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")
    inner.log({"step": 0})
    inner.close()
    run.close()
    assert Run.open(tmp_path / "run").metrics["step"].tolist() == [0, 1, 2, 3]
    assert Run.open(tmp_path / "relative").metrics["step"].tolist() == [0]
    assert list((tmp_path / "deep").iterdir()) == []


def test_the_directory_goes_while_a_file_is_written(tmp_path, monkeypatch):
    run = writer(tmp_path / "run")
    run.log({"step": 0})

    def save(*args, **kwargs):
        shutil.rmtree(tmp_path / "run")
        raise OSError(2, "No such file or directory")

    monkeypatch.setattr("subspace_lab.runs.snapshot.save_file", save)
    with pytest.raises(RunLostError, match="was removed"):
        run.snapshot(0, tensors(0), {})
    assert not (tmp_path / "run").exists()


def test_a_directory_that_cannot_be_looked_at_is_not_lost(tmp_path, monkeypatch):
    run = writer(tmp_path / "run")
    real = os.stat

    def stat(path, **options):
        if str(path).endswith("manifest.json"):
            raise PermissionError(13, "Permission denied")
        return real(path, **options)

    with monkeypatch.context() as patch, refuses("Permission denied") as caught:
        patch.setattr("os.stat", stat)
        run.log({"step": 0})
    del caught
    run.log({"step": 0})
    run.close()


def test_the_id_is_made_once(tmp_path):
    make_run(tmp_path / "run")
    first = Run.open(tmp_path / "run").manifest
    writer(tmp_path / "run", resume=True).close()
    second = Run.open(tmp_path / "run").manifest
    other = Run.open(make_run(tmp_path / "other")).manifest
    assert uuid.UUID(first["run_id"]).version == 4
    assert first["run_id"] == second["run_id"] != other["run_id"]


def test_a_run_of_an_earlier_release_gets_its_id(tmp_path):
    path = make_run(tmp_path / "run") / "manifest.json"
    old = json.loads(path.read_text())
    del old["run_id"]
    path.write_text(json.dumps(old))
    run = writer(tmp_path / "run", resume=True)
    run.start_at(20)
    run.log({"step": 20})
    run.close()
    manifest = Run.open(tmp_path / "run").manifest
    assert uuid.UUID(manifest["run_id"]).version == 4
    assert {name: manifest[name] for name in old} == old
