"""Reading manifest.json."""

import json
import math
import os

import pytest

from subspace_lab.runs import Run
from subspace_lab.runs.manifest import plain, read_manifest
from tests.runs.build import SHAPES, WIDE, make_run, refuses, writer


@pytest.fixture
def run_dir(tmp_path):
    return make_run(tmp_path / "run", steps=(0,))


def rewrite(run_dir, change):
    path = run_dir / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest = change(manifest) or manifest
    path.write_text(json.dumps(manifest))


def test_comes_back_as_it_was_written(tmp_path):
    about = {"config": {"lr": 1e-3, "betas": (0.9, 0.95), "clip": math.inf}, "seeds": {"data": 1}, "data_hash": "ab"}
    writer(tmp_path / "run", "topk:3", about=about).close()
    manifest = read_manifest(tmp_path / "run")
    assert manifest["config"] == {"lr": 1e-3, "betas": [0.9, 0.95], "clip": math.inf}
    assert (manifest["seeds"], manifest["data_hash"]) == ({"data": 1}, "ab")
    assert manifest["capture"] == {"every": 10, "keep": "topk:3", "layers": ["*"]}
    assert [row["name"] for row in manifest["layers"]] == list(SHAPES)
    assert [tuple(row["shape"]) for row in manifest["layers"]] == list(SHAPES.values())
    assert manifest["finished"] is True
    assert manifest["environment"]["packages"]["torch"]
    assert os.uname().nodename not in (tmp_path / "run" / "manifest.json").read_text()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "is empty"),
        (lambda path: path.write_text("hello"), "is a file"),
        (lambda path: (path / "src").mkdir(parents=True), "no manifest.json"),
        (lambda path: (path / "manifest.json").mkdir(parents=True), "no manifest.json"),
    ],
)
@pytest.mark.parametrize("name", ["run", "line\nbreak", "[red]run"])
def test_not_a_run(tmp_path, make, words, name):
    make(tmp_path / name)
    with refuses(words, "give the directory"):
        Run.open(tmp_path / name)


@pytest.mark.parametrize("path", ["a" * 300, "nul\0byte"])
def test_paths_that_cannot_be(tmp_path, path):
    with refuses():
        Run.open(tmp_path / path)


def test_a_pipe_is_not_waited_for(tmp_path):
    (tmp_path / "run").mkdir()
    os.mkfifo(tmp_path / "run" / "manifest.json")
    with refuses("no manifest.json"):
        Run.open(tmp_path / "run")


def test_cut_anywhere(run_dir):
    path = run_dir / "manifest.json"
    whole = path.read_bytes()
    for length in range(0, len(whole.rstrip()), 7):
        path.write_bytes(whole[:length])
        with refuses(str(path)):
            Run.open(run_dir)


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "3", '"x"', "NaN", "\xff", "[" * 100_000, '{"format": ' * 100_000, "1" * 10_000, "\0" * 64],
)
def test_other_content(run_dir, text):
    (run_dir / "manifest.json").write_bytes(text.encode("latin-1"))
    with refuses("manifest.json"):
        Run.open(run_dir)


def test_newer_format(run_dir):
    rewrite(run_dir, lambda manifest: manifest.update(format_version=2))
    with refuses("format version 2", "reads up to 1", "upgrade"):
        Run.open(run_dir)


HOSTILE = [None, True, "1", 1.5, math.nan, -1, 0, [], {}, [[1]], {"a": {"b": []}}, 10**30]


@pytest.mark.parametrize("value", HOSTILE, ids=repr)
@pytest.mark.parametrize("field", ["format", "format_version", "layers", "capture"])
def test_hostile_fields(run_dir, field, value):
    rewrite(run_dir, lambda manifest: manifest.update({field: value}))
    if (field, value) == ("layers", []):
        assert len(Run.open(run_dir).layers) == 0
        return
    with refuses("manifest.json"):
        Run.open(run_dir)


@pytest.mark.parametrize("value", [*HOSTILE, [0, 6], [6], [True, 60], [6, 10.0]], ids=repr)
@pytest.mark.parametrize("field", ["name", "depth", "kind", "rows", "cols", "side", "shape", "residual_side"])
def test_hostile_layer_tables(run_dir, field, value):
    sound = {("name", "1"), ("kind", "1"), ("depth", -1), ("depth", 0), ("residual_side", None)}
    rewrite(run_dir, lambda manifest: manifest["layers"][0].update({field: value}))
    if isinstance(value, int | str | None) and not isinstance(value, bool) and (field, value) in sound:
        Run.open(run_dir)
        return
    with refuses("manifest.json", "row 0"):
        Run.open(run_dir)


@pytest.mark.parametrize("keep", ["", "none", "topk", "topk:", "topk:0", "topk:-1", "topk:1e3", "topk:٣", "full\n"])
def test_unknown_reductions(run_dir, keep):
    rewrite(run_dir, lambda manifest: manifest["capture"].update(keep=keep))
    with refuses("keep="):
        Run.open(run_dir)


def test_missing_fields(run_dir):
    for field in ("format", "format_version", "layers", "capture"):
        manifest = json.loads((run_dir / "manifest.json").read_text())
        del manifest[field]
        copy = run_dir.parent / field
        copy.mkdir()
        (copy / "manifest.json").write_text(json.dumps(manifest))
        with refuses("manifest.json"):
            Run.open(copy)


def test_a_layer_twice(run_dir):
    rewrite(run_dir, lambda manifest: manifest["layers"].append(manifest["layers"][0]))
    with refuses("twice"):
        Run.open(run_dir)


def test_fields_that_we_do_not_know_are_left_alone(run_dir):
    rewrite(run_dir, lambda manifest: manifest.update(mine={"x": 1}))
    rewrite(run_dir, lambda manifest: manifest["layers"][0].update(colour="blue"))
    run = Run.open(run_dir)
    assert run.manifest["mine"] == {"x": 1}
    assert run.layer(WIDE)["colour"] == "blue"


def test_settings_that_json_cannot_hold():
    assert plain("config", {"a": (1, 2), "b": None}) == {"a": [1, 2], "b": None}
    for value in (object(), {1, 2}, b"bytes"):
        with pytest.raises(ValueError, match="config cannot be written as JSON"):
            plain("config", {"a": value})
