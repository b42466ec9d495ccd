"""The report's section of the loss at the checkpoints."""

from __future__ import annotations

import pytest

from subspace_lab.figures import LOSS_FIGURES
from subspace_lab.report import write_report
from subspace_lab.report.loss import measured_on
from subspace_lab.runs import Run
from tests.figures.loss.made_up import with_loss
from tests.figures.synthetic import edit_manifest, make_run, transformer
from tests.report.test_write import Page


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    directory = tmp_path_factory.mktemp("loss")
    small = make_run(directory / "small", layers=transformer(2, {"q_proj": (64, 64)}), steps=(0, 10))
    return with_loss(edit_manifest(small, evaluation={"held_out": True}), directory / "run")


def test_section(run, monkeypatch):
    few = {name: LOSS_FIGURES[name] for name in ("sharpness_over_training", "dominant_share")}
    monkeypatch.setattr("subspace_lab.report.sections.FIGURES", {})  # they have tests of their own
    monkeypatch.setattr("subspace_lab.report.sections.LOSS_FIGURES", few)
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert "The loss at the checkpoints" in page.text
    for module in few.values():
        assert module.TITLE in page.text
        assert module.CAPTION in page.text
    assert sum(tag == "svg" for tag, _ in page.tags) == 4
    assert ("a", {"href": "#landscape"}) in page.tags


def test_the_lines_above_the_figures_have_the_numbers(run):
    text = measured_on(run)
    assert text.startswith("Measured at 3 checkpoints (after 50, 100, 150 steps) on the held-out sequences")
    hessian, summary, noise = (run.table(name) for name in ("hessian", "hessian_summary", "noise"))
    top = hessian[(hessian["layer"] == "model") & (hessian["step"] == 150) & (hessian["index"] == 0)]
    last = summary[(summary["layer"] == "model") & (summary["step"] == 150)].iloc[0]
    bulk = noise[(noise["layer"] == "model") & (noise["step"] == 150) & (noise["part"] == "bulk")].iloc[0]
    assert f"of the whole model is {top['eigenvalue'].iloc[0]:.3g} at the last checkpoint" in text
    assert f"trace {last['trace']:.3g} ± 20" in text
    assert f"{last['chi']:.1%} of the gradient's norm lies in the space of the 4 leading" in text
    assert "3 eigenvalues of the whole model did not converge" in text
    assert f"{max(0, bulk['signal_share']):.0%} ± 5% is signal" in text


def test_a_run_that_was_not_measured_has_no_such_section(reports):
    text = reports("one snapshot").read_text(encoding="utf-8")
    assert "landscape" not in text
    assert "--hessian" not in text
