"""Runs that are not whole: said in words or refused in one line, with nothing written."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import subspace_lab as sl
from subspace_lab import analysis
from subspace_lab.analysis.layer_step import load_layer_step
from tests.runs_by_hand import layer_row, noise, write_run

PASSES = "subspace_lab.analysis.pass_over_snapshots"
SHAPES = {f"blocks.{depth}.{kind}.weight": (8, 20) for depth in range(2) for kind in ("q_proj", "down_proj")}


@pytest.mark.parametrize("damage", ["altered", "torn", "of another model"])
def test_a_damaged_snapshot_is_refused_before_anything_is_written(tmp_path, damage):
    run = write_run(tmp_path / "run", noise(SHAPES), steps=3)
    path = run.path / "snapshots" / "step_00000010.safetensors"
    content = path.read_bytes()
    if damage == "altered":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "torn":
        path.write_bytes(content[:-10])
    else:
        other = write_run(tmp_path / "other", noise(dict.fromkeys(SHAPES, (9, 20))), steps=3)
        path.write_bytes((other.path / "snapshots" / path.name).read_bytes())
    with pytest.raises(sl.RunError, match=rf"step_00000010\.safetensors.*{damage}") as caught:
        analysis.analyze(run)
    assert "\n" not in str(caught.value)
    assert not (run.path / "analysis").exists()


def test_a_layer_without_gradient_is_left_out_with_a_notice(tmp_path):
    names = list(SHAPES)
    writer = sl.runs.RunWriter(
        tmp_path / "run",
        layers=[layer_row(name, torch.zeros(8, 20)) for name in names],
        capture={"every": 1, "keep": "full", "layers": None},
    )
    gradients = noise(SHAPES)
    for step in range(3):
        absent = names[:1] if step == 1 else []
        tensors = {f"gradient:{name}": G for name, G in gradients(step).items() if name not in absent}
        writer.snapshot(step, tensors, {"nonfinite": {}, "missing": absent})
    writer.close()
    with pytest.warns(
        analysis.AnalysisNotice, match=rf"1 layer had no gradient in some captured steps: {names[0]} \(1 step\)"
    ):
        tables = analysis.analyze(sl.Run.open(tmp_path / "run"), lags=(1,))
    for name in ("energy", "spectrum", "spectrum_summary"):
        table = tables[name]
        assert set(table.loc[table["layer"] == names[0], "step"]) == {0, 2}
        assert set(table.loc[table["layer"] == names[1], "step"]) == {0, 1, 2}
    stale = tables["energy"].query("basis == 'stale'")
    assert set(stale["layer"]) == set(names[1:]), "a basis one capture old there never was"


def test_names_that_are_no_paths_and_no_blocks(tmp_path):
    names = [
        "../../up.weight",
        'a "quoted" <b>.weight',
        "model.20240101.q_proj.weight",
        "x.99999999999999999999.w.weight",
    ]
    gradients = noise(dict.fromkeys(names, (6, 9)))
    model = torch.nn.Module()
    for name in names:
        model._modules[name.removesuffix(".weight")] = torch.nn.Linear(9, 6, bias=False)
    with sl.GradientCapture(model, tmp_path / "deep" / "run", every=1, keep="full") as capture:
        for step in range(2):
            for name, parameter in zip(names, model.parameters(), strict=True):
                parameter.grad = gradients(step)[name]
            capture.step(step)
    run = sl.Run.open(tmp_path / "deep" / "run", write=True)
    tables = analysis.analyze(run)
    assert set(tables["energy"]["layer"]) == set(names)
    assert set(tables["energy"]["depth"]) == {-1}
    row = tables["energy"].query("basis == 'own' and step == 1 and rank == 1").set_index("layer").loc[names[0]]
    sigma = np.linalg.svd(gradients(1)[names[0]].double().numpy(), compute_uv=False)
    assert row["fraction"] == pytest.approx(sigma[0] ** 2 / (sigma**2).sum(), abs=1e-5)
    assert {path.name for path in tmp_path.iterdir()} == {"deep"}
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {"run"}


def test_when_one_chain_fails_those_that_wait_are_not_begun(tmp_path, monkeypatch):
    run = write_run(tmp_path / "run", noise({f"part{i}.weight": (4, 6) for i in range(9)}), steps=1)
    begun, told = [], threading.Event()

    def first_fails(run, chain, *_):
        begun.append(chain)
        if len(begun) == 1:
            raise sl.RunError("no more")
        told.wait(60)  # until the caller has heard of it

    monkeypatch.setattr(f"{PASSES}._pass_over_chain", first_fails)
    with ThreadPoolExecutor(1) as executor:
        with pytest.raises(sl.RunError, match="no more"):
            analysis.energy(run, executor=executor)
        told.set()
    assert len(begun) <= 2  # the second may have begun before the failure was known


def test_after_ctrl_c_the_chains_that_run_in_threads_stop_at_their_next_layer(tmp_path, monkeypatch):
    layers = {f"blocks.{depth}.w.weight": (4, 6) for depth in range(5)} | {"other.weight": (4, 6)}
    run = write_run(tmp_path / "run", noise(layers), steps=4)
    loaded, pressed, cancelled = [], threading.Event(), threading.Event()

    def slowly(run, snapshot, layer, **options):
        if layer.name == "other.weight":
            assert loaded or pressed.wait(60)
            raise KeyboardInterrupt
        loaded.append(layer.name)
        pressed.set()
        cancelled.wait(60)
        return load_layer_step(run, snapshot, layer, **options)

    monkeypatch.setattr(f"{PASSES}.load_layer_step", slowly)
    with ThreadPoolExecutor(2) as executor:
        with pytest.raises(KeyboardInterrupt):
            analysis.spectrum(run, executor=executor)
        cancelled.set()
    assert loaded == ["blocks.0.w.weight"], "of 20 in that chain"


@pytest.mark.parametrize("value", [None, "3", float("nan"), True])
def test_what_is_no_number_is_no_rank(tmp_path, value):
    run = write_run(tmp_path / "run", noise(SHAPES), steps=1)
    with pytest.raises(ValueError, match="rank must be a whole number of at least 1, got"):
        analysis.energy(run, ranks=(value,))


def test_integers_of_numpy_are_ranks(tmp_path):
    run = write_run(tmp_path / "run", noise(SHAPES), steps=1)
    assert set(analysis.energy(run, ranks=np.array([2, 3]))["rank"]) == {2, 3}
