"""Sharded gradients are captured as those of one process: every layout and reduction, faults, and a ceiling.

What each number of processes captures is in `sharded_cases`, run in one launch.
"""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import distributed

import subspace_lab as sl
from subspace_lab.capture import record
from subspace_lab.runs import RunError
from tests.capture.helpers import relative_error
from tests.capture.sharded_cases import FAILING, KEEPS, LAYOUTS, SHAPES, STEPS, gradient, model_of, plain_run, toy
from tests.launch import launch


@pytest.fixture(
    scope="module", params=[pytest.param(size, marks=pytest.mark.slow, id=f"{size} processes") for size in LAYOUTS]
)
def launched(request, tmp_path_factory):
    """One launch of so many processes: their number, where they wrote, what each of them said."""
    root = tmp_path_factory.mktemp(f"of_{request.param}")
    statuses, text = launch("tests.capture.sharded_cases:main", request.param, root)
    assert statuses == [0] * request.param, text[-5000:]
    return request.param, root, [torch.load(root / f"said_{rank}.pt") for rank in range(request.param)]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The run of one process, by reduction."""
    root = tmp_path_factory.mktemp("plain")
    runs = {keep: plain_run(root / keep.replace(":", ""), keep) for keep in KEEPS}
    return runs | {"float32": plain_run(root / "float32", "gram", torch.float32)}


def parts(run, step):
    """What a snapshot holds, by part and layer, and what it says beside it."""
    with run.snapshot(step) as snapshot:
        found = {}
        for layer in run.layers["name"]:
            for part in ("gradient", "gram_left", "gram_right", "basis", "singular_values"):
                if (tensor := snapshot.get(part, layer)) is not None:
                    found[part, layer] = tensor.clone()
        return found, snapshot.context


@pytest.fixture
def alone():
    """A world of this process alone."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_a_mesh_of_one_process_is_captured_as_without(alone, plain, tmp_path):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard

    mesh = init_device_mesh("cpu", (1,))
    model = model_of(lambda tensor: DTensor.from_local(tensor, mesh, [Shard(0)]))
    with sl.GradientCapture(model, tmp_path / "run", every=1) as capture:
        for step in range(STEPS):
            for name, holder in model.items():
                holder.weight.grad = DTensor.from_local(gradient(name, step), mesh, [Shard(0)])
            capture.step(step)
    run = sl.Run.open(tmp_path / "run")
    for step in range(STEPS):
        (found, context), (expected, own) = parts(run, step), parts(plain["gram"], step)
        assert context == own
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_number_of_processes_that_changes_ends_the_capture(tmp_path, monkeypatch):
    model = model_of(lambda tensor: tensor)
    capture = sl.GradientCapture(model, tmp_path / "run", every=None, on_error="raise")
    capture.step(0)
    monkeypatch.setattr(record, "num_processes", lambda: 2)
    with pytest.raises(
        RunError, match=r"^1 processes began this capture, now there are 2; end it, .* \(resume=True\)$"
    ):
        capture.step(1)


def test_snapshots_are_those_of_one_process(launched, plain):
    size, root, said = launched
    for kind in LAYOUTS[size]:
        for keep in (*KEEPS, "float32"):
            assert not any(lines[f"{kind} {keep}"] for lines in said)
            run, one = sl.Run.open(root / f"{kind}_{keep.replace(':', '')}"), plain[keep]
            assert run.verify() == STEPS
            for step in range(STEPS):
                (found, context), (expected, own) = parts(run, step), parts(one, step)
                assert list(found) == list(expected)
                assert context.pop("grad_norm") == pytest.approx(own.pop("grad_norm"), rel=1e-6)
                assert context == own
                for (part, layer), tensor in expected.items():
                    got = found[part, layer]
                    assert got.dtype == tensor.dtype
                    if part == "basis":
                        got, tensor = got @ got.T, tensor @ tensor.T
                    assert relative_error(got, tensor) < 1e-6, (kind, keep, part, layer)


def test_tables_are_those_of_one_process(launched, plain):
    size, root, _ = launched
    expected = sl.analysis.analyze(plain["gram"], ranks=(2,), rank=2, lags=(1,), top=2)
    for kind in LAYOUTS[size]:
        tables = sl.analysis.analyze(sl.Run.open(root / f"{kind}_gram"), ranks=(2,), rank=2, lags=(1,), top=2)
        for name, table in expected.items():
            pd.testing.assert_frame_equal(tables[name], table, check_exact=False, rtol=1e-6, atol=1e-6)


def test_a_shard_that_is_not_finite_is_recorded_once_and_hides_nothing_else(launched, plain):
    _, root, said = launched
    for keep in KEEPS:
        run = sl.Run.open(root / f"nonfinite_{keep.replace(':', '')}")
        with run.snapshot(0) as snapshot:
            assert snapshot.context["nonfinite"] == {"tall.weight": 2, "wide.weight": 2}
            assert np.isnan(snapshot.context["grad_norm"] or np.nan)
        (found, context), (expected, _) = parts(run, 1), parts(plain[keep], 1)
        assert context["nonfinite"] == {}
        assert list(found) == list(expected)
        assert "2 non-finite entries" in said[0][f"nonfinite {keep}"][0]
        assert not any(lines[f"nonfinite {keep}"] for lines in said[1:])


def test_one_process_that_fails_ends_the_capture_in_all_of_them(launched):
    size, root, said = launched
    line = {
        "reduction": "RuntimeError: planted",
        "memory": "RuntimeError: planted",
        "before": "RuntimeError: planted",
        "writing": "snapshots",
        "layers": f"process 1 of {size} captures 1 layers",
        "settings": f"process 1 of {size} captures with every=2, keep='gram', process 0 with every=1, keep='gram'",
    }
    for kind in FAILING[size]:
        for how, words in line.items():
            if (kind, how) == ("sums", "memory"):  # what is summed is whole in each process, nothing is sent
                continue
            for lines in said:
                warned, raised = lines[f"{kind} {how} warn"]
                assert raised is None
                assert sum(words in one and "the training goes on" in one for one in warned) == 1, (kind, how, warned)
                assert words in lines[f"{kind} {how} raise"][1]
                assert "\n" not in lines[f"{kind} {how} raise"][1]
        assert sl.Run.open(root / f"{kind}_layers_warn").steps == []


def test_a_gradient_that_one_process_does_not_have_is_missing(launched):
    size, root, said = launched
    for kind in FAILING[size]:
        run = sl.Run.open(root / f"{kind}_gradient_warn")
        for step, missing in enumerate(([], ["wide.weight"])):
            with run.snapshot(step) as snapshot:
                context = snapshot.context
                assert context["missing"] == missing
        assert all(lines[f"{kind} gradient warn"][1] is None for lines in said)
    if size == 2:  # a half of the sum is not the gradient's norm
        squares = sum(float(gradient(name, 1).square().sum()) for name in SHAPES if name != "wide")
        assert context["grad_norm"] == pytest.approx(squares**0.5)


def test_no_process_holds_two_whole_gradients_and_none_where_sums_do(launched):
    size, _, said = launched
    assert [lines["ceiling tall"] for lines in said] == [(0, 0)] * size  # Gram matrices of rows add up
    assert [lines["ceiling wide"] for lines in said] == [(1, 8 // size)] * size  # dealt out, one after the other


def test_gradients_of_trainings_on_meshes_of_two_dimensions(launched):
    size, root, _ = launched
    if size < 4:
        return
    model, loss_of, data = toy()
    runs = [sl.Run.open(root / kind) for kind in ("hsdp", "fsdp2_x_tp")]
    for step, batch in enumerate(data):
        model.zero_grad()
        loss_of(model, batch).backward()
        for run in runs:
            for name, parameter in model.named_parameters():
                assert relative_error(run.gradient(step, name), parameter.grad) < 1e-10
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.5 * parameter.grad
