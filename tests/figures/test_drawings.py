"""What each figure draws, against means computed in plain Python from the tables."""

from collections import defaultdict
from statistics import fmean

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from subspace_lab.figures import FIGURES, NARROW, PAGE, AbsentError
from subspace_lab.figures.labels import null_lines
from subspace_lab.figures.style import NULL_DASHES, style

KINDS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
EARLY, MIDDLE, LATE = range(0, 60, 10), range(60, 140, 10), range(140, 200, 10)


def records(run, table, **chosen):
    rows = run.table(table).to_dict("records")
    return [row for row in rows if all(row[name] == value for name, value in chosen.items())]


def means(rows, x, y):
    groups = defaultdict(list)
    for row in rows:
        groups[row[x]].append(row[y])
    return {key: fmean(groups[key]) for key in sorted(groups)}


def axes_of(figure):
    return {ax.get_title(loc="left"): ax for ax in figure.axes if ax.axison}


def curves(ax):
    """The lines that show data: x -> y."""
    return [
        dict(zip(*map(np.ndarray.tolist, map(np.asarray, line.get_data())), strict=True))
        for line in ax.lines
        if line.get_transform() == ax.transData and len(line.get_xdata()) > 0
    ]


def heights_of_null_lines(ax):
    return sorted(float(line.get_ydata()[0]) for line in ax.lines if line.get_transform() != ax.transData)


def check_curve(curve, expected, rel=1e-5):
    assert list(curve) == pytest.approx(list(expected))
    assert list(curve.values()) == pytest.approx(list(expected.values()), rel=rel)


def test_energy_over_training_shows_mean_spread_and_both_nulls(cases):
    run = cases("llama")
    axes = axes_of(FIGURES["energy_over_training"].draw(run))
    assert list(axes) == KINDS
    for kind, ax in axes.items():
        rows = records(run, "energy", basis="own", rank=64, kind=kind)
        (curve,) = curves(ax)
        check_curve(curve, means(rows, "step", "ratio"))
        band = ax.collections[0].get_paths()[0].vertices
        at_70 = band[band[:, 0] == 70, 1]
        ratios = [row["ratio"] for row in rows if row["step"] == 70]
        assert (at_70.min(), at_70.max()) == pytest.approx((min(ratios), max(ratios)))
        nulls = sorted((rows[0]["null_isotropic"] ** 0.5, rows[0]["null_noise"] ** 0.5))
        assert heights_of_null_lines(ax) == pytest.approx(nulls, abs=1e-3)
        assert [text.get_text() for text in ax.texts] == [
            f"Gaussian noise {nulls[1]:.2f}",
            f"fixed basis {nulls[0]:.2f}",
        ]
    assert heights_of_null_lines(axes["q_proj"]) != heights_of_null_lines(axes["down_proj"])


@pytest.mark.parametrize(
    ("name", "table", "chosen", "x", "y"),
    [
        ("energy_over_depth", "energy", {"basis": "own", "rank": 64}, "depth", "ratio"),
        ("depth_overlap", "angles", {"comparison": "depth"}, "depth", "overlap"),
    ],
)
def test_courses_over_depth_are_means_over_thirds_of_the_steps(cases, name, table, chosen, x, y):
    run = cases("llama")
    axes = axes_of(FIGURES[name].draw(run))
    assert list(axes) == KINDS
    for kind in ("q_proj", "down_proj"):
        rows = records(run, table, kind=kind, **chosen)
        for curve, steps in zip(curves(axes[kind]), (EARLY, MIDDLE, LATE), strict=True):
            check_curve(curve, means([row for row in rows if row["step"] in steps], x, y))


def test_tangent_spectrum_shows_stages_and_what_noise_gives(cases):
    run = cases("llama")
    axes = axes_of(FIGURES["tangent_spectrum"].draw(run))
    rows = [{**row, "number": row["index"] + 1} for row in records(run, "curvature", kind="down_proj")]
    early, middle, late, noise = curves(axes["down_proj"])
    for curve, steps in ((early, range(10, 70)), (middle, range(70, 140)), (late, LATE)):
        check_curve(curve, means([row for row in rows if row["step"] in steps], "number", "normalized"))
    check_curve(noise, means(rows, "number", "null_noise"))
    assert axes["down_proj"].get_yscale() == "log"


def test_energy_by_rank_shows_what_the_core_leaves_out(cases):
    run = cases("llama")
    axes = axes_of(FIGURES["energy_by_rank"].draw(run))
    rows = [{**row, "outside": 1 - row["fraction"]} for row in records(run, "energy", basis="own", kind="gate_proj")]
    early, _, late, noise, fixed = curves(axes["gate_proj"])
    check_curve(early, means([row for row in rows if row["step"] in EARLY], "rank", "outside"))
    check_curve(late, means([row for row in rows if row["step"] in LATE], "rank", "outside"))
    check_curve(noise, {rank: 1 - value for rank, value in means(rows, "rank", "null_noise").items()})
    check_curve(fixed, {rank: 1 - rank / 256 for rank in (4, 8, 16, 32, 64, 128)})


def test_stale_energy_starts_at_the_own_space_and_follows_the_age(cases):
    run = cases("llama")
    (ax,) = axes_of(FIGURES["stale_energy"].draw(run)).values()
    shown = curves(ax)
    assert len(shown) == len(KINDS)
    for kind, curve in zip(KINDS, shown, strict=True):
        expected = means(records(run, "energy", rank=64, kind=kind), "lag_steps", "ratio")
        assert list(curve.values()) == pytest.approx(list(expected.values()), rel=1e-5)
        assert list(curve)[1:] == [10, 20, 40, 80, 160]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "10", "20", "40", "80", "160"]
    assert heights_of_null_lines(ax) == pytest.approx([0.5], abs=1e-3)


def test_angle_drift_shows_overlap_with_the_previous_and_the_first_capture(cases):
    run = cases("llama")
    axes = axes_of(FIGURES["angle_drift"].draw(run))
    for comparison, title in (("previous", "with the capture before"), ("first", "with the first capture")):
        for kind, curve in zip(KINDS, curves(axes[title]), strict=True):
            check_curve(curve, means(records(run, "angles", comparison=comparison, kind=kind), "step", "overlap"))
        assert heights_of_null_lines(axes[title]) == pytest.approx([0.25], abs=1e-3)


@pytest.mark.parametrize("name", ["angle_drift", "depth_overlap"])
def test_captures_of_fewer_directions_add_no_null_lines(cases, monkeypatch, name):
    run = cases("llama")
    angles = run.table("angles")
    few = angles["step"] <= 20
    fewer = angles.assign(null_overlap=angles["null_overlap"].where(~few, 0.2))
    monkeypatch.setattr(run, "table", lambda *_: fewer)
    for ax in axes_of(FIGURES[name].draw(run)).values():
        assert heights_of_null_lines(ax) == pytest.approx([0.25])


def test_null_lines_and_their_labels_have_the_value_itself():
    figure = Figure()
    ax = figure.subplots()
    ax.set_ylim(-0.02, 1.02417)
    null_lines(ax, [("fixed basis", 0.2349, 0)])
    assert heights_of_null_lines(ax) == [0.2349]
    assert [text.get_text() for text in ax.texts] == ["fixed basis 0.23"]


def test_spectrum_is_divided_by_the_norm_and_stands_beside_noise_of_norm_one(cases):
    run = cases("llama")
    axes = axes_of(FIGURES["spectrum"].draw(run))
    gradient, noise = curves(axes["q_proj"])
    rows = records(run, "spectrum", kind="q_proj", step=190)
    norms = {row["layer"]: row["frobenius_norm"] for row in records(run, "spectrum_summary", step=190)}
    rows = [{"number": row["index"] + 1, "share": row["singular_value"] / norms[row["layer"]]} for row in rows]
    expected = means(rows, "number", "share")
    assert {1, 256} <= set(gradient)
    check_curve(gradient, {number: expected[number] for number in gradient})
    null = {row["index"] + 1: row["singular_value"] for row in records(run, "spectrum_null", m=256, n=256)}
    check_curve(noise, {number: null[number] for number in noise})


def test_loss_is_drawn_as_logged_with_held_out_text_and_captures(cases):
    run = cases("llama")
    (ax,) = FIGURES["loss"].draw(run).axes
    metrics = run.metrics
    train, held_out = curves(ax)
    check_curve(train, dict(zip(metrics["step"], metrics["loss"], strict=True)))
    evaluated = metrics.dropna(subset=["eval_loss"])
    check_curve(held_out, dict(zip(evaluated["step"], evaluated["eval_loss"], strict=True)))
    assert list(ax.lines[-1].get_xdata()) == run.steps


def test_a_long_loss_is_averaged_and_says_so(cases, monkeypatch):
    monkeypatch.setattr("subspace_lab.figures.loss_over_training._MOST_POINTS", 100)
    (ax,) = FIGURES["loss"].draw(cases("llama")).axes
    losses = cases("llama").metrics["loss"].to_numpy().reshape(100, 2).mean(1)
    assert list(curves(ax)[0].values()) == pytest.approx(losses.tolist())
    assert ax.get_legend().get_texts()[0].get_text() == "training batch, mean of 2 steps"


def text_boxes(figure, layout):
    """What is written, and where: tick labels within the axes, everything else that has a text."""
    with style(layout):
        figure.draw_without_rendering()
        axes = [axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)]
        labels = {label for axis in axes for label in axis.get_ticklabels(which="both")}
        hidden = labels - {label for axis in axes if axis.axes.axison for label in in_view(axis)}
        texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
        return [(text.get_text(), Text.get_window_extent(text)) for text in texts if text not in hidden]


def in_view(axis):
    low, high = sorted(axis.get_view_interval())
    ticks = axis.get_major_ticks(len(axis.get_majorticklocs()))
    return [tick.label1 for tick in ticks if low <= tick.get_loc() <= high]


def overlap(first, second):
    width = min(first.x1, second.x1) - max(first.x0, second.x0)
    height = min(first.y1, second.y1) - max(first.y0, second.y0)
    return width > 1 and height > 2


@pytest.mark.parametrize(
    ("case", "layout", "absent"),
    [
        ("llama", PAGE, set()),
        ("llama", NARROW, set()),
        ("one kind", NARROW, set()),
        ("no depth", PAGE, {"energy_over_depth", "depth_overlap"}),
        ("no depth", NARROW, {"energy_over_depth", "depth_overlap"}),
        ("one snapshot", PAGE, {"stale_energy", "angle_drift", "tangent_spectrum"}),
        ("two snapshots", NARROW, {"depth_overlap"}),
        ("stats", NARROW, {"stale_energy", "angle_drift", "depth_overlap", "tangent_spectrum"}),
        ("topk", NARROW, {"stale_energy", "depth_overlap", "tangent_spectrum"}),
        ("shared kind", PAGE, set()),
        ("markup", NARROW, {"depth_overlap"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_panel_shows_something_and_no_text_is_cut_or_covered(cases, case, layout, absent):
    run, left_out = cases(case), set()
    for name, module in FIGURES.items():
        try:
            figure = module.draw(run, layout)
        except AbsentError:
            left_out.add(name)
            continue
        for title, ax in axes_of(figure).items():
            finite = [np.isfinite(list(curve.values())).any() for curve in curves(ax)]
            assert any(finite), f"{name}: the panel {title!r} is empty"
        check_texts(name, text_boxes(figure, layout), figure.bbox)
    assert left_out == absent


def check_texts(name, boxes, whole):
    for text, box in boxes:
        outside = max(-box.x0, -box.y0, box.x1 - whole.x1, box.y1 - whole.y1)
        assert outside < 1, f"{name}: {text!r} is cut off by {outside:.0f} pixels"
    pairs = ((first, second) for place, first in enumerate(boxes) for second in boxes[place + 1 :])
    covered = [(first[0], second[0]) for first, second in pairs if overlap(first[1], second[1])]
    assert not covered, f"{name}: {covered}"


def test_null_lines_differ_in_style():
    assert NULL_DASHES[0] != NULL_DASHES[1]
