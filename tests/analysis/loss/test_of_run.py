"""The loss at the checkpoints of a run: the right weights, the right text, the right tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch

import subspace_lab as sl
from subspace_lab.analysis.loss.of_run import default_layers
from subspace_lab.training import RestoredCheckpoints
from subspace_lab.training.models import build_model
from subspace_lab.training.sequences import Sequences
from subspace_lab.training.tokens import load_tokens
from tests.docs.test_reference import rows, section
from tests.runs_by_hand import write_run
from tests.training.tiny import run_with_checkpoints

LAYERS = ("*layers.0.mlp.up_proj*", "*layers.1.self_attn.q_proj*")
PLACE = ["step", "layer", "depth", "kind"]


def language_loss(model, batch):
    return model(**batch).loss


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Trained once; its text stays where it was."""
    with run_with_checkpoints(tmp_path_factory.mktemp("loss")) as path:
        yield path


@pytest.fixture(scope="module")
def tables(trained: Path) -> dict[str, pd.DataFrame]:
    run = sl.Run.open(trained, write=True)
    checkpoints = RestoredCheckpoints.of(run)
    measured = sl.analysis.hessian_of_run(run, checkpoints, layers=LAYERS, k=2, sequences=4)
    return {**measured, **sl.analysis.noise_of_run(run, checkpoints, layers=LAYERS)}


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


def test_layers_of_many_blocks_are_thinned(trained):
    run = sl.Run.open(trained)
    assert len(default_layers(run)) == 14
    rows = [{**row, "depth": depth} for depth in range(9) for row in run.manifest["layers"][:4]]
    run.manifest["layers"] = [{**row, "name": f"{row['depth']}.{row['name']}"} for row in rows]
    assert {name.split(".")[0] for name in default_layers(run)} == {"0", "4", "8"}


class Quadratic:
    """Checkpoints of a model of one matrix, weights the step; the loss is half the mean of (s . w . x)^2."""

    batch_size = 2
    steps = (1, 3)

    def models(self):
        model = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 1, bias=False)})
        for step in self.steps:
            torch.nn.init.constant_(model["a"].weight, step)
            yield step, model

    def loss(self, model, batch):
        return (model["a"](batch["x"]) ** 2).mean() / 2

    def probe(self, count, device):
        return {"x": torch.tensor([[3.0, 0], [0, 1]] * 4)[:count].to(device)}


def test_the_checkpoints_of_any_task_do(tmp_path):
    """Tensors of other names and a loss that is not a language model's: the Hessian is the mean of x x^T."""
    run = write_run(tmp_path / "run", lambda step: {"a.weight": torch.ones(1, 2)})
    measured = sl.analysis.hessian_of_run(run, Quadratic(), k=2, sequences=4)
    of_layer = measured["hessian"].query("layer == 'a.weight'")
    assert of_layer["step"].tolist() == [1, 1, 3, 3]
    assert of_layer["eigenvalue"].to_numpy() == pytest.approx([4.5, 0.5] * 2, rel=1e-4)
    summary = measured["hessian_summary"].query("layer == 'model'")
    assert summary["sequences"].tolist() == [4, 4]
    assert summary["loss"].to_numpy() == pytest.approx([2.5, 9 * 2.5])
    noise = sl.analysis.noise_of_run(run, Quadratic())["noise"]
    assert noise["loss"].to_numpy() == pytest.approx(noise["step"] ** 2 * 2.5)
    assert set(noise["batch_size"]) == {2}


def test_a_path_is_not_a_run(trained):
    for function in (sl.analysis.hessian_of_run, sl.analysis.noise_of_run):
        with pytest.raises(TypeError, match="a run is needed"):
            function(str(trained), Quadratic())
