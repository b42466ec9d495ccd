"""What the figures of a comparison draw, against means worked out in plain Python."""

from collections import defaultdict
from statistics import fmean

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from subspace_lab.experiments.statistics import summary
from subspace_lab.figures import NARROW, PAGE, AbsentError
from subspace_lab.studies.optimizers.figures import FIGURES, Tables

METHODS = {"walk": (2.0, 1e6), "galore": (2.4, 2e6), "adamw": (1.9, 9e6), "bad": (3.0, 9.1e6)}
STEPS, SEEDS, LRS = 150, 3, (0.001, 0.01)


def tables(methods=METHODS, *, status="complete"):
    """Losses that fall to a level, with noise of the seed's own; the second learning rate is the better one."""
    draw = np.random.default_rng(0)
    results, curves = [], []
    for method, (level, state) in methods.items():
        for lr in LRS:
            for seed in range(SEEDS):
                cell = f"{method}_{lr}_{seed}"
                loss = level + (lr < 0.005) + 4 / (1 + np.arange(STEPS)) + 0.05 * draw.standard_normal(STEPS)
                about = {"cell": cell, "method": method, "lr": lr, "seed": seed}
                results.append({
                    **about, "status": status, "reason": "", "eval_loss": loss[-1], "train_loss": loss[-1],
                    "state_bytes": state, "state_bytes_formula": state, "peak_bytes": 1e9, "base_bytes": 4e8,
                    "step_s": 0.1,
                    "refresh_share": 0.1, "tokens": 10, "wall_s": 1.0,
                })  # fmt: skip
                wall = np.cumsum(0.1 + 0.02 * draw.random(STEPS))
                curves.append(pd.DataFrame({**about, "step": range(STEPS), "wall_s": wall, "loss": loss}))
    frame = pd.DataFrame(results)
    return Tables(frame, pd.concat(curves, ignore_index=True), summary(frame))


@pytest.mark.parametrize(("name", "x"), [("loss_over_steps", "step"), ("loss_over_time", "wall_s")])
def test_curves_are_means_of_blocks_and_seeds_at_the_best_learning_rate(name, x):
    source = tables()
    (ax,) = FIGURES[name].draw(source).axes
    assert len(ax.lines) == len(ax.collections) == len(METHODS)
    for method, line, band in zip(METHODS, ax.lines, ax.collections, strict=True):
        blocks = defaultdict(lambda: defaultdict(list))
        for row in source.curves.to_dict("records"):
            if (row["method"], row["lr"]) == (method, 0.01):
                blocks[row["step"] // 3][row["seed"]].append((row[x], row["loss"]))  # 150 steps, at most 60 points
        seeds = [[tuple(map(fmean, zip(*pairs, strict=True))) for pairs in block.values()] for block in blocks.values()]
        np.testing.assert_allclose(line.get_xdata(), [fmean(at for at, _ in block) for block in seeds])
        np.testing.assert_allclose(line.get_ydata(), [fmean(loss for _, loss in block) for block in seeds])
        heights = band.get_paths()[0].vertices
        last = heights[np.isclose(heights[:, 0], line.get_xdata()[-1]), 1]
        ends = [loss for _, loss in seeds[-1]]
        assert (last.min(), last.max()) == pytest.approx((min(ends), max(ends)))
    assert {text.get_text() for text in ax.texts} == set(METHODS)
    low, high = ax.get_ylim()
    assert low < source.curves.loc[source.curves["lr"] == 0.01, "loss"].min() + 0.1
    assert high < 4  # the steep beginning is cut off


def test_states_and_losses_are_those_of_the_table():
    source = tables()
    figure = FIGURES["loss_by_state"].draw(source)
    (ax,) = figure.axes
    drawn = {
        (round(float(bar[0].get_xdata()[0]), 6), float(bar[0].get_ydata()[0])): bar[2][0].get_segments()[0][:, 1]
        for bar in ax.containers
    }
    rows = source.table.to_dict("records")
    assert set(drawn) == {(row["state_bytes"] / 1e6, row["eval_loss"]) for row in rows}
    for row in rows:
        ends = drawn[row["state_bytes"] / 1e6, row["eval_loss"]]
        assert ends.tolist() == pytest.approx([row["eval_loss"] - row["eval_sd"], row["eval_loss"] + row["eval_sd"]])
    (front,) = [line for line in ax.lines if len(line.get_xdata()) == 2 and line.get_marker() == "None"]
    assert front.get_xdata().tolist() == [1.0, 9.0]  # walk and adamw
    (key,) = figure.legends
    assert [text.get_text() for text in key.texts] == ["adamw", "walk", "galore", "bad"]  # by loss


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("layout", [PAGE, NARROW])
def test_nothing_leaves_the_page(name, layout):
    many = {f"a_method_with_a_rather_long_name:{i}": (2 + 0.01 * i, 1e6 * (1 + i // 4)) for i in range(13)}
    figure = FIGURES[name].draw(tables(many), layout)
    assert isinstance(figure, Figure)
    assert figure.get_figwidth() == layout.width
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    for text in [*figure.axes[0].texts, *(text for key in figure.legends for text in key.texts)]:
        box = text.get_window_extent(renderer)
        assert box.x1 <= figure.bbox.x1 + 1
        assert box.y1 <= figure.bbox.y1 + 1
        assert box.y0 >= figure.bbox.y0 - 1


@pytest.mark.parametrize("name", FIGURES)
def test_without_a_complete_trial_it_says_so(name):
    nothing = tables(status="diverged")
    with pytest.raises(AbsentError, match="No trial is complete"):
        FIGURES[name].draw(nothing)


def test_curves_of_tuning_and_of_other_settings_are_not_drawn():
    """A tuned method has trials with the best rate of the matrices and other rates of the rest, and a tuning seed."""
    drawn = tables()
    results = drawn.results.assign(lr_rest=0.02, phase="evaluate")
    wrong = results[(results["method"] == "walk") & (results["lr"] == 0.01)].assign(
        lr_rest=0.1,
        phase="tune",
        seed=lambda rows: rows["seed"] + 1000,
        eval_loss=9.0,
        cell=lambda rows: rows["cell"] + "x",
    )
    curves = drawn.curves[drawn.curves["cell"] == "walk_0.01_0"].assign(cell="walk_0.01_0x", seed=1000, loss=9.0)
    both = Tables(pd.concat([results, wrong], ignore_index=True), pd.concat([drawn.curves, curves]), drawn.table)
    assert set(both.best()["walk"]["cell"]) == {f"walk_0.01_{seed}" for seed in range(SEEDS)}
