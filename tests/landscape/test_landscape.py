"""The loss at the checkpoints of a run: the right weights, the right text, the right tables."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

import subspace_lab as sl
from subspace_lab.landscape.checkpoints import Checkpoints, language_loss
from subspace_lab.landscape.hessian import default_layers
from subspace_lab.training.checkpoint import checkpoint_steps
from subspace_lab.training.evaluation import EvaluationSet
from subspace_lab.training.models import build_model
from subspace_lab.training.sequences import Sequences
from subspace_lab.training.tokens import load_tokens
from tests.docs.test_reference import rows, section
from tests.runs_by_hand import write_run

LAYERS = ("*layers.0.mlp.up_proj*", "*layers.1.self_attn.q_proj*")
PLACE = ["step", "layer", "depth", "kind"]


@pytest.fixture(scope="module")
def tables(trained: Path) -> dict[str, pd.DataFrame]:
    run = sl.Run.open(trained, write=True)
    measured = sl.landscape.hessian_of_run(run, layers=LAYERS, k=2, sequences=4)
    return {**measured, **sl.landscape.noise_of_run(run, layers=LAYERS)}


def rebuilt(run_dir: Path, step: int) -> tuple[torch.nn.Module, torch.Tensor]:
    """Model and held-out text without the code that is tested."""
    from safetensors.torch import load_file

    config = sl.training.stored_config(run_dir)
    model = build_model(config)
    weights = load_file(run_dir / "checkpoints" / f"step_{step:08d}.safetensors")
    state = {name.removeprefix("model:"): t for name, t in weights.items() if name.startswith("model:")}
    model.load_state_dict(state)
    tokens = Sequences(load_tokens(config).tokens, config.sequence_length, hold_out=True).held_out(32)
    return model, tokens


def test_checkpoints_are_kept(trained):
    assert checkpoint_steps(trained) == [4, 8, 12]


def test_columns_are_written(trained, tables):
    run = sl.Run.open(trained)
    assert list(tables["hessian"]) == [*PLACE, "index", "eigenvalue", "residual", "converged"]
    assert list(tables["hessian_summary"])[:6] == [*PLACE, "parameters", "k"]
    assert list(tables["noise"])[:6] == [*PLACE, "part", "rank"]
    for name, table in tables.items():
        pd.testing.assert_frame_equal(run.table(name), table, check_categorical=False)
        assert set(table["step"]) == {4, 8, 12}
        assert list(table["layer"].cat.categories) == [
            "model", "model.layers.0.mlp.up_proj.weight", "model.layers.1.self_attn.q_proj.weight",
        ]  # fmt: skip
        assert table.groupby("layer", observed=True)["depth"].first().tolist() == [-1, 0, 1]
        assert table.groupby("layer", observed=True)["kind"].first().tolist() == ["model", "up_proj", "q_proj"]
        assert all(str(dtype) != "float64" for dtype in table.dtypes)


@pytest.mark.parametrize("name", ["hessian", "hessian_summary", "noise"])
def test_the_reference_has_these_columns(tables, name):
    documented = [(cells[0].strip("`"), cells[1]) for cells in rows(section(name))]
    assert documented == [(column, str(dtype)) for column, dtype in tables[name].dtypes.items()]


def test_hessian_is_that_of_the_checkpoint(trained, tables):
    model, tokens = rebuilt(trained, 8)
    batch = {"input_ids": tokens[[0, 8, 16, 24]], "labels": tokens[[0, 8, 16, 24]]}
    found = sl.analysis.hessian(model, language_loss, batch, k=2, tol=1e-4)["eigenvalue"]
    rows = tables["hessian"]
    mine = rows[(rows["step"] == 8) & (rows["layer"] == "model")]
    assert mine["eigenvalue"].to_numpy() == pytest.approx(found.to_numpy(), rel=2e-2)
    assert mine["converged"].all()
    summary = tables["hessian_summary"]
    row = summary[(summary["step"] == 8) & (summary["layer"] == "model")].iloc[0]
    assert row["loss"] == pytest.approx(model(**batch).loss.item(), rel=1e-5)
    assert row["sequences"] == 4
    assert row["rank"] == sl.analysis.reference_rank(sl.Run.open(trained))


def test_noise_is_that_of_the_checkpoint(trained, tables):
    model, tokens = rebuilt(trained, 12)
    batch = {"input_ids": tokens, "labels": tokens}
    (layer,) = [name for name, _ in model.named_parameters() if "layers.0.mlp.up_proj" in name]
    rank = sl.analysis.reference_rank(sl.Run.open(trained))
    found = sl.analysis.noise(model, language_loss, batch, layer, rank=rank, batch_size=4)
    rows = tables["noise"]
    mine = rows[(rows["step"] == 12) & (rows["layer"] == layer)]
    for column in ("signal", "noise", "signal_share"):
        assert mine[column].to_numpy() == pytest.approx(found[column].to_numpy(), rel=1e-4), column
    assert set(mine["batch_size"]) == {4}  # two of two


def test_the_manifest_names_the_sequences(trained):
    run = sl.Run.open(trained)
    _, tokens = rebuilt(trained, 12)
    named = run.manifest["evaluation"]
    assert {name: named[name] for name in ("sequences", "tokens", "held_out")} == {
        "sequences": 32, "tokens": 16, "held_out": True,
    }  # fmt: skip
    assert torch.equal(Checkpoints.of(run).evaluation.tokens, tokens)
    assert Checkpoints.of(run).evaluation.facts() == named


def edited(run_dir: Path, **changes) -> sl.Run:
    path = run_dir / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return sl.Run.open(run_dir, write=True)


def test_runs_without_that_field_are_measured_too(run_dir):
    assert Checkpoints.of(edited(run_dir, evaluation=None)).evaluation.facts()["sequences"] == 32


def test_faults(run_dir, tmp_path):
    with pytest.raises(sl.RunError, match="trained on other data"):
        Checkpoints.of(edited(run_dir, data_hash="0" * 64))
    run = edited(run_dir, data_hash=sl.Run.open(run_dir).manifest["data_hash"], evaluation={"sequences": 1})
    with pytest.raises(sl.RunError, match=r"(other data|other evaluation sequences)"):
        Checkpoints.of(run)
    shutil.rmtree(run_dir / "checkpoints")
    with pytest.raises(sl.RunError, match=r"has no checkpoints; train with: .* --keep-checkpoints 5"):
        sl.landscape.hessian_of_run(sl.Run.open(run_dir))
    with pytest.raises(sl.RunError, match=r"has no checkpoints; resume it: subspace-lab train .* --resume"):
        sl.landscape.noise_of_run(edited(run_dir, finished=False))
    captured = write_run(tmp_path / "captured", lambda step: {"a.weight": torch.ones(4, 4)})
    with pytest.raises(sl.RunError, match="was not begun by subspace-lab train, so that it has no checkpoints"):
        sl.landscape.hessian_of_run(captured)
    with pytest.raises(TypeError, match="a run is needed"):
        sl.landscape.noise_of_run(str(run_dir))


def test_a_torn_checkpoint_is_named(run_dir):
    path = run_dir / "checkpoints" / "step_00000008.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(sl.RunError, match="step_00000008"):
        sl.landscape.noise_of_run(sl.Run.open(run_dir))


def test_layers_of_many_blocks_are_thinned(trained):
    run = sl.Run.open(trained)
    assert len(default_layers(run)) == 14
    rows = [{**row, "depth": depth} for depth in range(9) for row in run.manifest["layers"][:4]]
    run.manifest["layers"] = [{**row, "name": f"{row['depth']}.{row['name']}"} for row in rows]
    assert {name.split(".")[0] for name in default_layers(run)} == {"0", "4", "8"}


def test_evaluation_set_without_held_out_text():
    import numpy as np

    sequences = Sequences(np.arange(70 * 4, dtype=np.uint16), 4, hold_out=False)
    found = EvaluationSet.of(sequences)
    assert found.tokens.shape == (32, 4)
    assert not found.facts()["held_out"]
    assert found.tokens[:2, 0].tolist() == [0, 8]  # every 70/32th
    assert found.first(4)[:, 0].tolist() == found.tokens[::8, 0].tolist()
    few = EvaluationSet.of(Sequences(np.arange(7 * 4, dtype=np.uint16), 4, hold_out=False))
    assert len(few.tokens) == 6
