"""The words of findings and plan: no verdict that the numbers do not carry."""

import re

import pytest
import torch

import subspace_lab as sl
from tests.runs_by_hand import noise, write_run

SHAPES = {
    f"blocks.{depth}.{kind}.weight": shape
    for depth in range(4)
    for kind, shape in {"q_proj": (16, 16), "up_proj": (16, 40), "down_proj": (40, 16)}.items()
}


def told(run: sl.Run, **options) -> dict[str, sl.analysis.Finding]:
    sl.analysis.analyze(run, **options)
    return {finding.title.split()[0]: finding for finding in sl.analysis.findings(run)}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("steps", [1, 9])
def test_noise_is_not_told_to_be_anything_else(tmp_path, seed, steps):
    run = write_run(tmp_path / "run", noise(SHAPES, seed), steps=steps)
    found = told(run)
    assert found["Core"].numbers["layers_above"] == 0
    assert "none of 12 layers lies above the noise" in found["Core"].text
    assert found["Core"].text.endswith("Nothing here is significantly above isotropic noise.")
    everything = " ".join(finding.text for finding in found.values())
    assert not re.search("rises|falls by", everything)
    if steps > 1:
        assert "no more than chance" in found["Drift"].text
    plan = sl.recommend(run)
    assert not any(layer.above_noise for layer in plan.layers)
    assert {layer.rank for layer in plan.layers} == {1}
    assert {layer.bound for layer in plan.layers} == ({"at most"} if steps > 1 else {""})


def test_a_weak_structure_is_told_from_noise_by_its_layer_alone(tmp_path):
    plain = noise(SHAPES)
    name = "blocks.2.up_proj.weight"
    generator = torch.Generator().manual_seed(5)
    u, v = torch.randn(16, 1, generator=generator), torch.randn(1, 40, generator=generator)

    def at(step: int) -> dict[str, torch.Tensor]:
        return {**plain(step), name: plain(step)[name] + 0.7 * u @ v}

    run = write_run(tmp_path / "run", at, steps=9)
    core = told(run)["Core"]
    assert core.numbers["layers_above"] == 1
    assert "1 of 12 layers lies above the noise by more than noise scatters" in core.text
    assert core.text.endswith("This rejects isotropic noise and no more.")
    assert [layer.layer for layer in sl.recommend(run).layers if layer.above_noise] == [name]


def test_one_layer_is_spoken_of_in_the_singular_and_without_an_error_bar(tmp_path):
    found = told(write_run(tmp_path / "run", noise({"stem.conv.weight": (8, 3, 3, 3)}), every=1, steps=4))
    everything = " ".join(finding.text for finding in found.values())
    assert "the one layer does not lie above the noise" in found["Core"].text
    assert "(one layer only, so that there is no interval)" in found["Trend"].text
    assert "Over 1 step the top-2 subspace" in found["Drift"].text
    assert "basis that is 1 step old" in found["Drift"].text
    assert not re.search(r"\b1 (steps|layers|kinds)\b|±|layers from|1 of 1|largest for|interval\b(?!\))", everything)


def test_one_captured_step_is_spoken_of_in_the_singular(tmp_path):
    core = told(write_run(tmp_path / "run", noise(SHAPES), steps=1))["Core"]
    assert ", 1 captured step)" in core.text
    assert "mean over 1" not in core.text


def test_the_course_between_the_ends_is_told_in_the_thirds_of_the_figures(tmp_path):
    """Rises, then falls back half of the way; 7 steps are 2 + 3 + 2."""
    weak = {0: 0.5, 10: 0.5, 20: 0.1, 30: 0.1, 40: 0.1, 50: 0.3, 60: 0.3}

    def at(step: int) -> dict[str, torch.Tensor]:
        diagonal = torch.diag(torch.tensor([1.0] + 7 * [weak[step]]))
        return {f"blocks.{number}.w.weight": diagonal for number in range(4)}

    trend = told(write_run(tmp_path / "run", at, steps=7), ranks=(1,))["Trend"]
    early, middle, late = ((1 / (1 + 7 * value**2)) ** 0.5 for value in (0.5, 0.1, 0.3))
    assert f"is {early:.3f} in the first third of the captured steps, {middle:.3f} in the middle and" in trend.text
    assert f" and {late:.3f} in the last." in trend.text
    assert trend.numbers["training_change"] == pytest.approx(late - early, abs=1e-4)


def test_a_change_that_rounds_to_zero_is_none_and_zero_has_no_sign(tmp_path):
    """Gradients with the same energies in every step but for 2e-4 in some layers of the last third."""

    def at(step: int) -> dict[str, torch.Tensor]:
        gradients = {}
        for number, name in enumerate(f"blocks.{i}.w.weight" for i in range(8)):
            weak = 0.1 + (0.0005 + 0.0001 * number) * (step >= 40)
            gradients[name] = torch.diag(torch.tensor([1.0, weak, weak, weak, weak, weak, weak, weak]))
        return gradients

    run = write_run(tmp_path / "run", at, steps=6)
    trend = told(run, ranks=(2,))["Trend"]
    assert trend.numbers["high"] < 0, "the interval excludes zero"
    assert "shows no clear trend: 0.000 (95 % interval" in trend.text
    assert not re.search(r"[-+]0\.000", trend.text)


def test_numbers_beside_each_other_have_the_same_decimals(tmp_path):
    def at(step: int) -> dict[str, torch.Tensor]:
        draw = torch.Generator().manual_seed(step)
        weak = 1e-3 if step < 20 else 1.0
        scale = torch.ones(16, 1)
        scale[1:] = weak
        return {"blocks.0.w.weight": scale * torch.randn(16, 24, generator=draw)}

    text = told(write_run(tmp_path / "run", at, steps=6), rank=4)["Curvature"].text
    early, late = re.search(r"over the largest is (\S+) early and (\S+) late", text).groups()
    assert len(early.lstrip("<")) == len(late)


def test_the_plan_bounds_the_rank(tmp_path):
    generator = torch.Generator().manual_seed(0)
    S = torch.linalg.qr(torch.randn(32, 6, generator=generator)).Q

    def at(step: int) -> dict[str, torch.Tensor]:
        draw = torch.Generator().manual_seed(step)
        signal = 30 * S @ torch.randn(6, 64, generator=draw)
        return {"blocks.0.w.weight": signal + torch.randn(32, 64, generator=draw)}

    run = write_run(tmp_path / "run", at)
    bounds = {}
    for ranks in ((2, 6, 12), (6, 12), (2, 4), (4,)):
        sl.analysis.energy(run, ranks=ranks)
        (layer,) = sl.recommend(run).layers
        bounds[ranks] = (layer.rank, layer.rank_bound)
    assert bounds == {(2, 6, 12): (6, ""), (6, 12): (6, "at most"), (2, 4): (4, "at least"), (4,): (4, "only")}


def test_a_layer_without_a_finite_gradient_has_no_plan_and_that_is_said(tmp_path):
    def at(step: int) -> dict[str, torch.Tensor]:
        gradients = noise(SHAPES)(step)
        return {**gradients, "blocks.1.q_proj.weight": gradients["blocks.1.q_proj.weight"] * float("nan")}

    run = write_run(tmp_path / "run", at, steps=3)
    with pytest.warns(sl.analysis.AnalysisNotice, match="3 gradients with NaN or Inf entries left out"):
        sl.analysis.energy(run)
    with pytest.warns(sl.analysis.AnalysisNotice, match=r"^no plan for blocks\.1\.q_proj\.weight: no gradient with"):
        plan = sl.recommend(run)
    assert {layer.layer for layer in plan.layers} == SHAPES.keys() - {"blocks.1.q_proj.weight"}
