"""Opening and reading a run directory."""

import errno
import os
import pickle
import shlex
import shutil
import tracemalloc

import pandas as pd
import pytest
import torch

from subspace_lab.runs import Run, RunError
from subspace_lab.runs.snapshot import Snapshot, snapshot_path, write_snapshot
from tests.runs.build import (
    CONV,
    SHAPES,
    SQUARE,
    TALL,
    WIDE,
    contents,
    gradients,
    make_run,
    mounted,
    reduced,
    refuses,
    remount,
    tensors,
    writer,
)

KEEPS = ["full", "gram", "topk:3", "stats"]


@pytest.fixture(params=KEEPS)
def run(tmp_path, request):
    return Run.open(make_run(tmp_path / "run", request.param))


@pytest.fixture
def run_dir(tmp_path):
    return make_run(tmp_path / "run", "gram")


def test_what_a_run_says_of_itself(run):
    assert run.steps == [0, 10]
    assert run.layers["name"].tolist() == list(SHAPES)
    assert run.layers.columns.tolist() == ["name", "depth", "kind", "rows", "cols", "side", "shape", "residual_side"]
    assert run.layers["side"].tolist() == ["left", "right", "left", "left"]
    assert run.layer(CONV)["shape"] == [4, 2, 3, 3]
    assert (run.layer(CONV)["rows"], run.layer(CONV)["cols"]) == (4, 18)
    assert run.verify() == 2
    assert repr(run) == f"Run({str(run.path)!r}: 4 layers, 2 snapshots, keep={run.keep!r})"


def test_accepts_a_string_and_the_layer_table_is_a_copy(run):
    run = Run.open(str(run.path))
    table = run.layers
    table["rows"] = 0
    assert run.layers["rows"].tolist() == [6, 10, 5, 4]


@pytest.mark.parametrize("step", [0, 10])
@pytest.mark.parametrize("layer", SHAPES)
def test_gradients_and_grams(run, step, layer):
    G = gradients(step)[layer]
    if run.keep == "full":
        assert torch.equal(run.gradient(step, layer), G)
    else:
        with refuses(layer, f"keep={run.keep!r}", "capture with keep='full'"):
            run.gradient(step, layer)
    own = run.layer(layer)["side"]
    if run.keep in {"full", "gram"}:
        C = G.flatten(1) @ G.flatten(1).T if own == "left" else G.T @ G
        torch.testing.assert_close(run.gram(step, layer), C)
        torch.testing.assert_close(run.gram(step, layer, own), run.gram(step, layer))
    else:
        with refuses(layer, f"the {own} Gram", "capture with keep='gram' or keep='full'"):
            run.gram(step, layer)


def test_the_gram_of_the_other_side(run):
    other = {WIDE: "right", TALL: "left", SQUARE: "right", CONV: "right"}
    for layer, side in other.items():
        if run.keep == "full" or (run.keep == "gram" and layer == SQUARE):
            G = gradients(10)[layer].flatten(1).double()
            expected = G @ G.T if side == "left" else G.T @ G
            torch.testing.assert_close(run.gram(10, layer, side).double(), expected, rtol=1e-5, atol=1e-5)
        else:
            with refuses(f"the {side} Gram matrix is not kept", "capture with keep='full'"):
                run.gram(10, layer, side)
    with pytest.raises(ValueError, match=r"side must be .* got 'up'"):
        run.gram(10, WIDE, "up")


def test_unknown_names_and_steps(run):
    with refuses("has no layer 'blocks.0.up'", "nearest: blocks.0.up.weight"):
        run.gradient(0, "blocks.0.up")
    with refuses("has no layer '3'", "nearest"):
        run.gram(0, "3")
    with refuses("no snapshot of step 5", "captured are 2 steps from 0 to 10"):
        run.gram(5, WIDE)
    with refuses(r"has no layer 'a\nb'"):
        run.layer("a\nb")


def test_steps_and_names_of_another_type(run_dir):
    run = Run.open(run_dir)
    assert run.gram(10.0, WIDE).equal(run.gram(10, WIDE)), "a row of a table of floats"
    with refuses("no snapshot of step '10'"):
        run.gram("10", WIDE)
    with refuses("has no layer ['a']"):
        run.gram(10, ["a"])
    with pytest.raises(ValueError, match="a table's name is one word such as 'energy', got None"):
        run.table(None)
    with pytest.raises(TypeError, match=r"^a run is opened with Run\.open\('runs/mine'\)$"):
        Run("runs/mine")


def test_messages_quote_paths_as_a_shell_needs_them(run_dir):
    moved = run_dir.rename(run_dir.parent / "it's mine")
    with refuses(f"run: subspace-lab analyze {shlex.quote(str(moved))}, or open it with write=True"):
        Run.open(moved).table("energy")


def test_nothing_captured_yet(tmp_path):
    writer(tmp_path / "run").close()
    run = Run.open(tmp_path / "run")
    assert run.steps == []
    assert run.verify() == 0
    with refuses("nothing was captured yet"):
        run.gradient(0, WIDE)
    with refuses("no table 'energy' yet", "subspace-lab analyze"):
        run.table("energy")


def test_no_layers(tmp_path):
    writer(tmp_path / "run", shapes={}).close()
    run = Run.open(tmp_path / "run")
    assert run.layers.empty
    assert run.layers["name"].tolist() == []
    with refuses("it has no layers"):
        run.layer("x")


def test_gradients_that_were_not_kept_say_why(tmp_path):
    run = writer(tmp_path / "run", "gram")
    run.snapshot(0, reduced("gram", gradients(0)[WIDE], WIDE), {"nonfinite": {TALL: 7}, "missing": [SQUARE]})
    run.close()
    run = Run.open(tmp_path / "run")
    assert run.verify() == 1
    with refuses(TALL, "7 non-finite entries"):
        run.gram(0, TALL)
    with refuses(SQUARE, "no gradient in this step"):
        run.gram(0, SQUARE)
    with refuses(CONV, "not kept by keep='gram'"):
        run.gram(0, CONV)


def test_files_of_other_names_are_ignored(run_dir):
    sound = (run_dir / "snapshots" / "step_00000010.safetensors").read_bytes()
    for name in [
        "step_20",
        "step_00000020.rank1",
        ".step_00000020",
        "step_٠٠٠٠٠٠٢٠",
        "step_-0000001",
        "step_000000020",
    ]:
        (run_dir / "snapshots" / f"{name}.safetensors").write_bytes(sound)
    for name in ["step_00000020.pt", "step_00000020.safetensors~", "notes.txt"]:
        (run_dir / "snapshots" / name).write_bytes(sound)
    (run_dir / "snapshots" / ".k3j2.partial").mkdir()
    run = Run.open(run_dir)
    assert run.steps == [0, 10]
    assert run.verify() == 2


def test_a_directory_or_pipe_in_the_place_of_a_snapshot(run_dir):
    os.mkdir(snapshot_path(run_dir, 20))
    with refuses("step_00000020", "not a file", "delete it"):
        Run.open(run_dir).verify()
    os.rmdir(snapshot_path(run_dir, 20))
    os.mkfifo(snapshot_path(run_dir, 20))
    with refuses("step_00000020", "not a file"):
        Run.open(run_dir).gram(20, WIDE)


def test_snapshots_in_the_place_of_a_file(run_dir):
    shutil.rmtree(run_dir / "snapshots")
    (run_dir / "snapshots").touch()
    assert Run.open(run_dir).steps == []


def test_verify_names_the_altered_one(run_dir):
    path = snapshot_path(run_dir, 10)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with refuses(str(path), "was altered"):
        Run.open(run_dir).verify()


@pytest.mark.parametrize("length", [0, 1, 7, 8, 100, -1])
def test_torn_snapshots(run_dir, length):
    path = snapshot_path(run_dir, 10)
    path.write_bytes(path.read_bytes()[:length])
    run = Run.open(run_dir)
    for ask in (run.verify, lambda: run.gram(10, WIDE), lambda: run.gradient(10, WIDE)):
        with refuses(str(path), "torn", "delete it"):
            ask()
    assert run.gram(0, WIDE).shape == (6, 6)


def test_a_snapshot_under_another_name(run_dir):
    shutil.copy(snapshot_path(run_dir, 10), snapshot_path(run_dir, 20))
    with refuses("step_00000020", "is the snapshot of step 10"):
        Run.open(run_dir).gram(20, WIDE)


@pytest.mark.parametrize("keep", KEEPS)
def test_shapes_that_change_between_steps(tmp_path, keep):
    run_dir = make_run(tmp_path / "run", keep)
    other = tensors(20, keep, {**SHAPES, WIDE: (7, 9)})
    write_snapshot(snapshot_path(run_dir, 20), other, {"step": 20})
    run = Run.open(run_dir)
    with refuses("step_00000020", WIDE, "has shape", "the manifest says", "another model"):
        run.verify()
    if keep in {"full", "gram"}:
        with refuses("step_00000020", WIDE, "another model"):
            run.gram(20, WIDE)
    assert run.steps == [0, 10, 20]


@pytest.mark.parametrize("name", ["gradient:elsewhere", "gradient", "other:" + WIDE, ":", "gram_up:" + WIDE])
def test_tensors_that_do_not_belong(run_dir, name):
    write_snapshot(snapshot_path(run_dir, 20), {name: torch.ones(6, 10)}, {"step": 20})
    with pytest.raises(RunError):
        Run.open(run_dir).verify()


@pytest.mark.parametrize(
    "hostile",
    [
        torch.full((7, 3), torch.nan),
        torch.full((7, 3), torch.inf),
        torch.ones(7, 3, dtype=torch.int64),
        torch.ones(7, 3, dtype=torch.bool),
    ],
    ids=["nan", "inf", "integers", "booleans"],
)
def test_entries_that_are_no_finite_numbers(run_dir, hostile):
    write_snapshot(snapshot_path(run_dir, 20), {f"gram_left:{WIDE}": hostile}, {"step": 20})
    with refuses("step_00000020", WIDE, "finite numbers", "delete"):
        Run.open(run_dir).gram(20, WIDE)


@pytest.mark.parametrize("name", ["manifest.json", "metrics.jsonl", "snapshots", "analysis", "checkpoints", "figures"])
def test_links_out_of_the_run_are_not_followed(run_dir, name):
    outside = run_dir.parent / "outside"
    if (run_dir / name).exists():
        (run_dir / name).rename(outside)
    else:
        outside.mkdir()
    (run_dir / name).symlink_to(outside)
    with refuses(name, "leads out of"):
        Run.open(run_dir)
    with refuses(name, "leads out of"):
        writer(run_dir, "gram", resume=True)


def test_snapshots_and_tables_that_are_links_are_not_read(run_dir):
    outside = run_dir.parent / "outside"
    snapshot_path(run_dir, 10).rename(outside)
    snapshot_path(run_dir, 10).symlink_to(outside)
    run = Run.open(run_dir, write=True)
    for ask in (run.verify, lambda: run.gram(10, WIDE)):
        with refuses("step_00000010", "leads out of"):
            ask()
    run.write_table("energy", pd.DataFrame({"step": [1]}))
    (run_dir / "analysis" / "energy.parquet").rename(outside)
    (run_dir / "analysis" / "energy.parquet").symlink_to(outside)
    with refuses("energy.parquet", "leads out of"):
        run.table("energy")
    before = outside.read_bytes()
    run.write_table("energy", pd.DataFrame({"step": [2]}))
    assert outside.read_bytes() == before
    assert run.table("energy")["step"].tolist() == [2]


def test_a_run_may_be_reached_by_a_link(run_dir):
    (run_dir.parent / "latest").symlink_to(run_dir)
    run = Run.open(run_dir.parent / "latest", write=True)
    assert run.verify() == 2
    run.write_table("energy", pd.DataFrame({"step": [1]}))
    assert (run_dir / "analysis" / "energy.parquet").exists()


def test_tables(run_dir):
    table = pd.DataFrame({"step": [1, 2], "layer": pd.Categorical([WIDE, TALL]), "ratio": [0.5, 0.25]})
    table["ratio"] = table["ratio"].astype("float32")
    Run.open(run_dir).write_table("energy", table)
    assert not (run_dir / "analysis").exists()
    run = Run.open(run_dir, write=True)
    run.write_table("energy", table)
    pd.testing.assert_frame_equal(Run.open(run_dir).table("energy"), table)
    assert os.listdir(run_dir / "analysis") == ["energy.parquet"]


@pytest.mark.parametrize("name", ["../../outside", "/etc/passwd", "", "a b", "energy.parquet"])
def test_names_of_tables_are_no_paths(run_dir, name):
    run = Run.open(run_dir, write=True)
    with pytest.raises(ValueError, match="a table's name is one word"):
        run.table(name)
    with pytest.raises(ValueError, match="a table's name is one word"):
        run.write_table(name, pd.DataFrame())


@pytest.mark.parametrize("content", [b"", b"hello", b"PAR1PAR1", bytes(100)])
def test_broken_tables(run_dir, content):
    (run_dir / "analysis").mkdir()
    (run_dir / "analysis" / "energy.parquet").write_bytes(content)
    with refuses("energy.parquet cannot be read", "run again"):
        Run.open(run_dir).table("energy")


def test_a_table_with_another_byte_is_a_table_or_an_error_of_ours(run_dir):
    run = Run.open(run_dir, write=True)
    run.write_table("energy", pd.DataFrame({"layer": pd.Categorical([WIDE, TALL]), "ratio": [0.5, 0.25]}))
    path = run_dir / "analysis" / "energy.parquet"
    whole, refused = path.read_bytes(), 0
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x04]) + whole[place + 1 :])
        try:
            run.table("energy")
        except RunError:
            refused += 1
    assert refused > len(whole) / 10


def test_a_table_that_does_not_fit_on_the_disk(run_dir):
    with mounted(run_dir.parent / "small", "size=128k") as disk:
        shutil.copytree(run_dir, disk / "run")
        run = Run.open(disk / "run", write=True)
        before = contents(run.path)
        with refuses("energy.parquet", "No space left"):
            run.write_table("energy", pd.DataFrame({"ratio": torch.randn(100_000).numpy()}))
        assert contents(run.path) == before
        remount(disk, "ro")
        assert Run.open(disk / "run").verify() == 2
        with refuses("read-only", "without write=True"):
            Run.open(disk / "run", write=True)
        with refuses("Read-only"):
            run.write_table("energy", pd.DataFrame())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_table_that_cannot_be_written(run_dir, monkeypatch, number):
    def fail(self, path, **options):
        path.write_bytes(b"half")
        raise OSError(number, "two\nlines")

    run, before = Run.open(run_dir, write=True), contents(run_dir)
    monkeypatch.setattr(pd.DataFrame, "to_parquet", fail)
    with refuses("energy.parquet", os.strerror(number)):
        run.write_table("energy", pd.DataFrame())
    assert contents(run_dir) == before


def test_reading_changes_nothing(run):
    before = contents(run.path)
    run.verify()
    run.metrics, run.layers, run.steps  # noqa: B018
    assert contents(run.path) == before


class Payload:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_nothing_is_executed(tmp_path):
    mark = tmp_path / "mark"
    attack = pickle.dumps(Payload(mark))
    torch.save(Payload(mark), tmp_path / "attack.pt")
    for number, content in enumerate([attack, (tmp_path / "attack.pt").read_bytes()]):
        run_dir = make_run(tmp_path / str(number))
        (run_dir / "analysis").mkdir()
        for path in [snapshot_path(run_dir, 10), run_dir / "metrics.jsonl", run_dir / "analysis" / "energy.parquet"]:
            path.write_bytes(content + b"\n")
        run = Run.open(run_dir)
        for ask in (run.verify, lambda run=run: run.metrics, lambda run=run: run.table("energy")):
            with pytest.raises(RunError):
                ask()
        (run_dir / "manifest.json").write_bytes(content)
        with refuses("manifest.json"):
            Run.open(run_dir)
    assert not mark.exists()
    pickle.loads(attack)
    assert mark.exists()  # the attack is a real one


def test_verifying_does_not_load_the_file(tmp_path):
    run = writer(tmp_path / "run", shapes={"large": (1000, 2000)})
    run.snapshot(0, {"gradient:large": torch.ones(1000, 2000)}, {})
    run.close()
    tracemalloc.start()
    assert Run.open(tmp_path / "run").verify() == 1
    assert tracemalloc.get_traced_memory()[1] < 4_000_000  # of 8 MB
    tracemalloc.stop()


def test_a_run_goes_to_other_processes(run):
    assert pickle.loads(pickle.dumps(run)).verify() == 2


def test_gradients_are_compared_with_the_checksum_once(tmp_path, monkeypatch):
    run_dir = make_run(tmp_path / "run", "full")
    path, compared, real = snapshot_path(run_dir, 10), [], Snapshot.verify
    monkeypatch.setattr(Snapshot, "verify", lambda self: compared.append(self.path) or real(self))
    run = Run.open(run_dir)
    for name in (WIDE, TALL):
        run.gradient(10, name), run.gram(10, name)
    assert compared == [path]
    content = bytearray(path.read_bytes())
    content[-5] ^= 1  # still a finite number
    path.write_bytes(content)
    for ask in (run.gradient, run.gram):
        with refuses("step_00000010", "was altered"):
            ask(10, WIDE)
    assert torch.equal(run.gradient(0, WIDE), tensors(0)[f"gradient:{WIDE}"])
