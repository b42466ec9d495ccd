"""What the figures of the loss draw, against the tables; no text is cut or covered."""

from __future__ import annotations

import numpy as np
import pytest

from subspace_lab.figures import LOSS_FIGURES, NARROW, PAGE, AbsentError, draw_all
from subspace_lab.runs import Run
from tests.figures.loss.made_up import STEPS, with_loss
from tests.figures.synthetic import layer_row, make_run, transformer
from tests.figures.test_drawings import axes_of, check_curve, check_texts, curves, heights_of_null_lines, text_boxes


@pytest.fixture(scope="module")
def run(cases, tmp_path_factory) -> Run:
    return with_loss(cases("llama"), tmp_path_factory.mktemp("loss") / "run")


def rows_of(run, table, **chosen):
    rows = run.table(table)
    for name, value in chosen.items():
        rows = rows[rows[name] == value]
    return rows


@pytest.mark.parametrize(
    ("name", "table", "column", "null"),
    [
        ("sharpness_over_depth", "hessian", "eigenvalue", None),
        ("dominant_share", "hessian_summary", "chi", "null_chi"),
        ("core_overlap", "hessian_summary", "overlap", "null_overlap"),
    ],
)
def test_courses_over_depth(run, name, table, column, null):
    axes = axes_of(LOSS_FIGURES[name].draw(run))
    assert list(axes) == list(run.layers["kind"].unique())
    rows = rows_of(run, table, kind="down_proj")
    if table == "hessian":
        rows = rows[rows["index"] == 0]
    for curve, step in zip(curves(axes["down_proj"]), STEPS, strict=True):
        line = rows[rows["step"] == step].sort_values("depth")
        check_curve(curve, dict(zip(line["depth"], line[column], strict=True)))
    nulls = heights_of_null_lines(axes["down_proj"])
    assert nulls == ([] if null is None else pytest.approx([rows[null].mean()]))


def test_curvature_along_core_and_bulk_at_the_last_checkpoint(run):
    ax = axes_of(LOSS_FIGURES["curvature_along_gradient"].draw(run))["q_proj"]
    rows = rows_of(run, "hessian_summary", kind="q_proj", step=STEPS[-1]).sort_values("depth")
    core, bulk, hollow = curves(ax)
    assert (rows["rayleigh_core"] > 0).all()
    down = rows[rows["rayleigh_bulk"] < 0]
    assert 0 < len(down) < len(rows)
    for curve, part, shown in ((core, "core", rows), (bulk, "bulk", rows), (hollow, "bulk", down)):
        check_curve(curve, dict(zip(shown["depth"], shown[f"rayleigh_{part}"].abs(), strict=True)))


def test_signal_of_core_and_bulk_at_the_last_checkpoint(run):
    ax = axes_of(LOSS_FIGURES["signal_over_depth"].draw(run))["q_proj"]
    for bars, part in zip(ax.containers, ("core", "bulk"), strict=True):
        rows = rows_of(run, "noise", kind="q_proj", step=STEPS[-1], part=part).sort_values("depth")
        assert bars.lines[0].get_xdata() == pytest.approx(rows["depth"])
        assert bars.lines[0].get_ydata() == pytest.approx(rows["signal_share"])


def test_the_whole_model_over_training(run):
    spectrum, trace, share = LOSS_FIGURES["sharpness_over_training"].draw(run).axes
    values, summary = (rows_of(run, name, layer="model") for name in ("hessian", "hessian_summary"))
    *lines, missed = curves(spectrum)
    for index, line in enumerate(lines):
        rows = values[values["index"] == index]
        check_curve(line, dict(zip(rows["step"], rows["eigenvalue"], strict=True)))
    rows = values[~values["converged"]]
    check_curve(missed, dict(zip(rows["step"], rows["eigenvalue"], strict=True)))
    check_curve(curves(trace)[0], dict(zip(summary["step"], summary["trace"], strict=True)))
    check_curve(curves(share)[0], dict(zip(summary["step"], summary["chi"], strict=True)))


def test_noise_over_training(run):
    scale, share = LOSS_FIGURES["noise_over_training"].draw(run).axes
    rows = rows_of(run, "noise", layer="model", part="bulk")
    assert share.get_title(loc="left") == "share of signal at a batch of 16"
    assert [text.get_text() for text in share.get_legend().get_texts()] == ["all", "core", "bulk"]
    for ax, column in ((scale, "noise_scale"), (share, "signal_share")):
        bulk = ax.containers[2].lines[0]
        assert np.array_equal(bulk.get_xdata(), rows["step"])
        assert bulk.get_ydata() == pytest.approx(rows[column].to_numpy())


@pytest.mark.parametrize(
    ("case", "layout"), [("llama", PAGE), ("one snapshot", PAGE), ("one snapshot", NARROW), ("shared kind", NARROW)]
)
def test_no_text_is_cut_or_covered(cases, tmp_path, case, layout):
    steps = STEPS if case == "llama" else STEPS[:1]
    run = with_loss(cases(case), tmp_path / "run", steps=steps)
    for name, module in LOSS_FIGURES.items():
        figure = module.draw(run, layout)
        check_texts(name, text_boxes(figure, layout), figure.bbox)


def test_a_run_that_was_not_measured_has_none_and_says_how(cases):
    for module in LOSS_FIGURES.values():
        with pytest.raises(AbsentError, match=r"analyze .* --(hessian|noise)"):
            module.draw(cases("one kind"))


def test_layers_outside_of_blocks_have_no_depth(tmp_path):
    bare = make_run(tmp_path / "bare", layers=[layer_row("w", -1, "w", (8, 8))], steps=(0,))
    run = with_loss(bare, tmp_path / "run")
    with pytest.raises(AbsentError, match="no depth"):
        LOSS_FIGURES["dominant_share"].draw(run)


def test_files_are_left_with_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr("subspace_lab.figures.all.FIGURES", {})  # they have tests of their own
    small = make_run(tmp_path / "small", layers=transformer(2, {"q_proj": (64, 64)}), steps=(0, 10))
    run = with_loss(small, tmp_path / "run")
    names = {path.stem for path in draw_all(run)}
    assert names == set(LOSS_FIGURES)


def test_every_figure_says_what_it_shows_how_to_read_it_and_when_it_misleads():
    for module in LOSS_FIGURES.values():
        assert 2 <= module.CAPTION.count(". ") + 1 <= 4, module.TITLE
        assert "mislead" in module.CAPTION, module.TITLE
