"""The tables of the study on trainings and captured runs made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from subspace_lab.figures.tables import AbsentError
from subspace_lab.studies.finetuning.profiles import PROFILES, SCORES
from subspace_lab.studies.finetuning.quantities import gradients, scores
from subspace_lab.training import TrainConfig
from subspace_lab.training.tasks.table import task_of
from subspace_lab.training.workers import ALONE
from tests.runs_by_hand import noise, write_run
from tests.studies.finetuning.by_hand import Tables, captured, trainings
from tests.studies.grass_paper.by_hand import T2, records, table


@pytest.mark.parametrize("task", SCORES)
def test_the_score_is_what_the_task_names_first_beside_the_loss(task):
    config = TrainConfig(task=task, model=PROFILES["cpu"].config.model).resolved()
    assert task_of(config, ALONE).metrics[1] == SCORES[task]


def test_scores_are_those_of_the_best_rate_by_task():
    numbers = {
        "adamw": {"score": [0.5, 0.6, 0.7], "eval_loss": [1.0, 1.1, 1.2], "wall_s": [10.0, 20.0, 60.0]},
        "subtrack": {"score": [0.8, 0.8, 0.8], "eval_loss": [0.5, 0.5, 0.8], "state_bytes": 77.0},
    }
    found = scores.measure(Tables(results=trainings(numbers, tasks=["arithmetic", "sentiment"])))
    assert list(found) == list(scores.COLUMNS)
    names = "task method lr seeds score eval_loss wall_s state_bytes"
    assert records(found, names) == [
        (task, method, 1e-3, 3, pytest.approx(score), pytest.approx(loss), wall, state)
        for task in ("sentiment", "arithmetic")
        for method, score, loss, wall, state in (("subtrack", 0.8, 0.6, 100.0, 77.0), ("adamw", 0.6, 1.1, 30.0, 1000.0))
    ]
    half = T2 * 0.1 / math.sqrt(3)
    assert found.loc[1, ["score_low", "score_high"]].tolist() == pytest.approx([0.6 - half, 0.6 + half])
    assert found.loc[0, ["score_low", "score_high"]].tolist() == pytest.approx([0.8, 0.8])
    assert set(found["edge"]) == {"low"}


def test_scores_of_nothing_are_an_empty_table():
    assert scores.measure(Tables()).empty
    failed = trainings({"adamw": {}}).assign(status="failed")
    assert scores.measure(Tables(results=failed)).empty


def test_blocks_have_their_own_means_and_their_place_in_the_model():
    """Ratios grow with the square of the depth and fall over training; of kinds the mean is taken."""

    def value(source, seed, step, kind, depth, rank):
        ratio = 0.3 + 0.01 * depth**2 - 0.001 * step + (0.1 if kind == "q_proj" else 0) + 0.001 * seed
        return {"ratio": ratio + (0.2 if rank == 16 else 0), "noise": 0.04 * (depth + 1),
                "largest": 0.1 * (depth + 1) + 0.01 * step, "largest_noise": 0.5}  # fmt: skip

    found = gradients.measure(Tables(**captured(value, sources=["text", "scratch"])))
    assert list(found) == list(gradients.COLUMNS)
    assert len(found) == 2 * 3 * 2 * 5
    for row in found.to_dict("records"):
        depth = row["depth"]
        ratio = 0.3 + 0.01 * depth**2 - 0.015 + 0.05 + 0.001 * row["seed"] + (0.2 if row["share"] == 4 else 0)
        assert row["ratio"] == pytest.approx(ratio)
        assert row["null_noise"] == pytest.approx(math.sqrt(0.04 * (depth + 1)))
        assert row["null_isotropic"] == pytest.approx(0.5)
        assert row["change"] == pytest.approx(-0.03)
        assert (row["largest"], row["largest_noise"]) == pytest.approx((0.1 * (depth + 1) + 0.15, 0.5))
        assert row["place"] == depth / 4
    assert set(found["share"]) == {4.0, 16.0}
    assert gradients.measure(Tables()).empty


def test_captured_runs_are_measured_and_others_are_not(tmp_path):
    """The median width is 32: shares of 4, 16 and 64 are ranks 8, 2 and 1; the derivative is at 8."""
    shapes = {f"blocks.{depth}.{kind}.weight": (32, 40) for depth in range(3) for kind in ("q_proj", "down_proj")}
    made = noise(shapes)
    write_run(tmp_path / "run", made, steps=3, every=1, keep="gram")
    store = Tables()
    store.trials_dir = tmp_path
    gradients.absorb(store, table("cell source seed", ("run", "text", 2), ("other", "", 0)))
    energies, tangents = store.read("captured_energy"), store.read("captured_tangent")
    for found in (energies, tangents):
        assert {*records(found, "cell source seed")} == {("run", "text", 2)}
    assert set(energies["rank"]) == {1, 2, 8}
    assert set(tangents["rank"]) == {8}
    sigma = np.linalg.svd(made(1)["blocks.2.q_proj.weight"].numpy(), compute_uv=False)
    row = energies.query("step == 1 and kind == 'q_proj' and depth == 2 and rank == 8")
    assert row["ratio"].tolist() == pytest.approx([math.sqrt((sigma[:8] ** 2).sum() / (sigma**2).sum())], rel=1e-5)


PICTURES = {name: (of, one) for of in (scores, gradients) for name, one in of.QUANTITY.pictures.items()}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_draw_what_their_table_has(name):
    """A line or a row for each source or method, with the mean over seeds at its place."""
    module, picture = PICTURES[name]
    numbers = {"adamw": {"score": [0.5, 0.6, 0.7]}, "lora": {"score": 0.9, "eval_loss": 0.4}}
    store = Tables(results=trainings(numbers), **captured(lambda source, seed, *_: {"ratio": 0.5 + 0.01 * seed}))
    found = module.measure(store)
    figure = picture.draw(found)
    if module is scores:
        points = [ax.lines[0].get_xdata().tolist() for ax in figure.axes if ax.lines]
        assert points[:2] == [pytest.approx([0.6, 0.9]), pytest.approx([1.0, 0.4])]
        labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
        assert labels == ["adamw (3)", "lora (3)"]
    else:
        column = {"finetuning_depth": 0.51, "finetuning_changes": 0.0, "finetuning_derivative": 0.1}[name]
        lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 5]
        assert [line.get_ydata().tolist() for line in lines[:1]] == [pytest.approx([column] * 5)]
        assert lines[0].get_xdata().tolist() == [0, 0.25, 0.5, 0.75, 1]
        solid = 1 if name == "finetuning_changes" else 2  # a null for each source
        assert len(lines) == 3 * solid
    with pytest.raises(AbsentError):
        picture.draw(found.iloc[:0])
