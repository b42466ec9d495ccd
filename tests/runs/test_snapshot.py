"""Snapshots: identical bytes, and a checksum that nothing escapes."""

import hashlib
import json
import math
import os
import stat

import pytest
import torch
from hypothesis import given, settings, strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from subspace_lab.runs import RunError
from subspace_lab.runs.snapshot import Snapshot, snapshot_path, step_of, write_snapshot
from tests.runs.build import mounted, refuses, remount, tensors

CONTEXT = {"step": 10, "loss": 1e-5, "lr": 0.1, "clipped": "unknown", "nonfinite": {"é": 2}, "missing": ["\x1bx"]}
NASTY = [
    "a/../../b",
    "/etc/passwd",
    "..",
    "a:b",
    "a'\"b",
    "<b>&amp;",
    "[red]",
    "two\nlines",
    "ünïcode→𝒢",
    "",
    "\x1b[0m",
    "\\",
]


@pytest.fixture
def path(tmp_path):
    path = snapshot_path(tmp_path, 10)
    write_snapshot(path, {**tensors(10), "gradient:\x1bx": torch.ones(2, 2, dtype=torch.bfloat16)}, CONTEXT)
    return path


def open_and_verify(path):
    with Snapshot(path) as snapshot:
        snapshot.verify()


@pytest.mark.parametrize("keep", ["full", "gram", "topk:3", "stats"])
def test_round_trip(tmp_path, keep):
    written = tensors(10, keep)
    checksum = write_snapshot(tmp_path / "x.safetensors", written, CONTEXT)
    with Snapshot(tmp_path / "x.safetensors") as snapshot:
        snapshot.verify()
        assert snapshot.checksum == checksum
        assert snapshot.context == CONTEXT
        for name, tensor in written.items():
            assert torch.equal(snapshot.get(*name.split(":")), tensor)
        assert snapshot.shapes() == {tuple(name.split(":")): tuple(tensor.shape) for name, tensor in written.items()}
        assert snapshot.get("gradient", "no such layer") is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_dtype_and_layout(tmp_path, dtype):
    base = torch.arange(24.0).reshape(2, 3, 2, 2).to(dtype)
    written = {"gradient:plain": base, "gradient:strided": base.flatten(1).clone().T}
    written["gradient:channels"] = base.contiguous(memory_format=torch.channels_last)
    write_snapshot(tmp_path / "x", written, {"step": 0})
    with Snapshot(tmp_path / "x") as snapshot:
        for name, tensor in written.items():
            found = snapshot.get(*name.split(":"))
            assert found.dtype == dtype
            assert torch.equal(found, tensor)


def test_views_into_one_bucket(tmp_path):
    """What DistributedDataParallel makes of gradients with ``gradient_as_bucket_view``."""
    bucket = torch.arange(20.0)
    write_snapshot(
        tmp_path / "x", {"gradient:a": bucket[:8].view(2, 4), "gradient:b": bucket[8:].view(3, 4)}, {"step": 0}
    )
    with Snapshot(tmp_path / "x") as snapshot:
        assert torch.equal(snapshot.get("gradient", "b"), bucket[8:].view(3, 4))


def test_the_same_bytes_whatever_the_order(tmp_path):
    names = sorted(tensors(10))
    for number, order in enumerate([names, names[::-1], names[2:] + names[:2]]):
        context = dict(sorted(CONTEXT.items(), reverse=bool(number % 2)))
        write_snapshot(tmp_path / str(number), {name: tensors(10)[name] for name in order}, context)
    assert len({(tmp_path / str(number)).read_bytes() for number in range(3)}) == 1


def test_the_checksum_is_that_of_the_file_with_zeros_in_its_place(path):
    with Snapshot(path) as snapshot:
        checksum = snapshot.checksum.encode()
    content = path.read_bytes()
    assert content.count(checksum) == 1
    assert hashlib.sha256(content.replace(checksum, b"0" * 64)).hexdigest() == checksum.decode()


def test_other_tools_can_read_it(path):
    with safe_open(path, framework="np") as file:
        metadata = json.loads(file.metadata()["subspace_lab"])
        assert metadata == {**CONTEXT, "checksum": metadata["checksum"]}


def test_the_mode_follows_the_umask(path):
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_every_flipped_byte_of_the_header_is_found(path):
    whole = path.read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")
    for place in range(end):
        for flip in (0x01, 0x20, 0x04):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :])
            with pytest.raises(RunError):
                open_and_verify(path)


def test_every_flipped_byte_of_the_data_is_found(path):
    whole = path.read_bytes()
    for place in range(8 + int.from_bytes(whole[:8], "little"), len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x80]) + whole[place + 1 :])
        with refuses("was altered"):
            open_and_verify(path)


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_any_other_byte_anywhere_is_found(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("run") / "x"
    write_snapshot(path, {"gradient:a": torch.arange(6.0).reshape(2, 3)}, CONTEXT)
    whole = path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != whole[place]))
    path.write_bytes(whole[:place] + bytes([byte]) + whole[place + 1 :])
    with refuses(str(path)):
        open_and_verify(path)


def test_torn_at_every_length(path):
    whole = path.read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")
    for length in [*range(0, end + 20), *range(end + 20, len(whole), 61), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with refuses("torn", "delete it"):
            Snapshot(path)


def test_longer_than_it_should_be(path):
    path.write_bytes(path.read_bytes() + b"\0")
    with refuses(str(path)):
        open_and_verify(path)


def test_cut_after_it_was_opened(path):
    with Snapshot(path) as snapshot:
        path.write_bytes(path.read_bytes()[:100])
        with refuses("torn"):
            snapshot.verify()


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", bytes(1000), b"\xff" * 1000, b"\x80\x04\x95pickle", b"\x10" + bytes(7) + b'{"a":1}         '],
    ids=["empty", "text", "zeros", "ones", "pickle", "json"],
)
def test_other_content(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with refuses("torn or no snapshot"):
        Snapshot(tmp_path / "x")


METADATA = [
    None,
    {"other": "x"},
    *({"subspace_lab": text} for text in ["", "3", "[]", '"x"', "null", "{}", "[" * 50_000, '{"step": 1}']),
    *({"subspace_lab": json.dumps({"checksum": "0" * 64, "step": 1, **bad})} for bad in [
        {"checksum": 3}, {"checksum": None}, {"checksum": "0" * 63}, {"step": None}, {"step": "1"}, {"step": math.nan},
        {"nonfinite": 3}, {"nonfinite": []}, {"missing": {}}, {"missing": "abc"}])
]  # fmt: skip


@pytest.mark.parametrize("metadata", METADATA, ids=lambda metadata: str(metadata)[:60])
def test_hostile_metadata(tmp_path, metadata):
    save_file({"gradient:a": torch.ones(2, 2)}, tmp_path / "x", metadata=metadata)
    with refuses("torn or no snapshot"):
        Snapshot(tmp_path / "x")


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_not_a_file(tmp_path, make):
    make(tmp_path / "x")
    with refuses("not a file"):
        Snapshot(tmp_path / "x")


def test_missing(tmp_path):
    with refuses("there is no snapshot"):
        Snapshot(tmp_path / "line\nbreak")


def test_closed(path):
    with Snapshot(path) as snapshot:
        pass
    with refuses("torn"):
        snapshot.get("gradient", "\x1bx")


@pytest.mark.parametrize("layer", NASTY)
def test_layer_names_are_only_names(tmp_path, layer):
    directory = tmp_path / "run" / "snapshots"
    tensor = torch.arange(4.0).reshape(2, 2)
    write_snapshot(
        directory / "x", {f"gradient:{layer}": tensor}, {"step": 0, "nonfinite": {layer: 1}, "missing": [layer]}
    )
    assert os.listdir(directory) == ["x"]
    assert os.listdir(tmp_path) == ["run"]
    with Snapshot(directory / "x") as snapshot:
        snapshot.verify()
        assert torch.equal(snapshot.get("gradient", layer), tensor)
        assert list(snapshot.shapes()) == [("gradient", layer)]
        assert (snapshot.context["nonfinite"], snapshot.context["missing"]) == ({layer: 1}, [layer])


@settings(deadline=None, max_examples=50)
@given(
    layer=st.text(st.characters(codec="utf-8")),
    loss=st.floats(),
    shape=st.lists(st.integers(0, 5), min_size=1, max_size=4),
)
def test_any_name_number_and_shape_comes_back(tmp_path_factory, layer, loss, shape):
    path = tmp_path_factory.mktemp("run") / "x"
    tensor = torch.randn(shape)
    write_snapshot(path, {f"gradient:{layer}": tensor}, {"step": 3, "loss": loss})
    with Snapshot(path) as snapshot:
        snapshot.verify()
        assert torch.equal(snapshot.get("gradient", layer), tensor)
        assert repr(snapshot.context["loss"]) == repr(loss)
        assert snapshot.difference({f"gradient:{layer}": tensor}, {"step": 3, "loss": loss}) is None


@pytest.mark.parametrize(("before", "now"), [
    (torch.float32, torch.int32),
    (torch.bfloat16, torch.float16),
    (torch.int16, torch.bfloat16),
    (torch.int64, torch.float64),
])  # fmt: skip
def test_the_same_bytes_of_another_dtype_are_another_tensor(tmp_path, before, now):
    tensor = torch.tensor([[1, 2], [3, 4]]).to(before)
    write_snapshot(tmp_path / "x", {"gradient:a": tensor}, {"step": 0})
    with Snapshot(tmp_path / "x") as snapshot:
        assert snapshot.difference({"gradient:a": tensor.clone()}, {"step": 0}) is None
        assert snapshot.difference({"gradient:a": tensor.view(now)}, {"step": 0}) == "gradient:a"
        assert snapshot.difference({"gradient:a": tensor.reshape(4, 1)}, {"step": 0}) == "gradient:a"


def test_differences_are_named(path):
    same = {**tensors(10), "gradient:\x1bx": torch.ones(2, 2, dtype=torch.bfloat16)}
    name = "gradient:stem.weight"
    nudged = same[name].clone()
    nudged.view(torch.int32)[0, 0, 0, 0] ^= 1  # the last bit of one entry
    with Snapshot(path) as snapshot:
        assert snapshot.difference(same, CONTEXT) is None
        assert snapshot.difference(same, {**CONTEXT, "loss": 2e-5}) == "loss (1e-05 before, 2e-05 now)"
        assert snapshot.difference(same, {**CONTEXT, "new": 1}) == "new (None before, 1 now)"
        assert snapshot.difference({**same, name: nudged}, CONTEXT) == name
        assert snapshot.difference({**same, name: same[name].double()}, CONTEXT) == name
        assert snapshot.difference({**same, name: same[name].flatten(1)}, CONTEXT) == name
        assert snapshot.difference({**same, "gradient:more": nudged}, CONTEXT) == "gradient:more (absent before)"
        del same[name]
        assert snapshot.difference(same, CONTEXT) == f"{name} (kept before)"


def test_a_loss_that_is_no_number_equals_itself(tmp_path):
    for loss in (math.nan, math.inf, -0.0):
        write_snapshot(tmp_path / "x", {"gradient:a": torch.tensor([math.nan, 1])}, {"step": 0, "loss": loss})
        with Snapshot(tmp_path / "x") as snapshot:
            snapshot.verify()
            assert snapshot.difference({"gradient:a": torch.tensor([math.nan, 1])}, {"step": 0, "loss": loss}) is None
            assert snapshot.difference({"gradient:a": torch.tensor([math.nan, 1])}, {"step": 0, "loss": 0.0})


def test_names_of_steps(tmp_path):
    for step in (0, 7, 120, 99_999_999, 100_000_000, 10**15 - 1):
        assert step_of(snapshot_path(tmp_path, step)) == step
    odd = [
        "step_1",
        "step_0000001",
        "step_000000001",
        "step_",
        "step_-0000001",
        "step_٠٠٠٠٠٠٠١",
        "step_00000001 ",
        "Step_00000001",
    ]
    odd += ["step_00000001.rank0", ".step_00000001", "step_" + "9" * 40, "step_00000001\n"]
    for name in odd:
        assert step_of(tmp_path / f"{name}.safetensors") is None
    assert step_of(tmp_path / "step_00000001.pt") is None


def test_a_full_disk_leaves_nothing(tmp_path):
    with mounted(tmp_path / "small", "size=64k") as disk:
        write_snapshot(snapshot_path(disk, 0), {"gradient:a": torch.ones(100, 10)}, {"step": 0})
        with refuses("step_00000010.safetensors", "No space left on device;"):
            write_snapshot(snapshot_path(disk, 10), {"gradient:a": torch.ones(1000, 100)}, {"step": 10})
        assert os.listdir(disk / "snapshots") == ["step_00000000.safetensors"]
        open_and_verify(snapshot_path(disk, 0))
        remount(disk, "ro")
        with refuses("Read-only file system;"):
            write_snapshot(snapshot_path(disk, 20), {"gradient:a": torch.ones(1, 1)}, {"step": 20})
        open_and_verify(snapshot_path(disk, 0))
