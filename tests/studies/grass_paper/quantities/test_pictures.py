"""What the pictures of quantities of trainings show, against their tables."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from subspace_lab.figures import NARROW, PAGE, AbsentError
from subspace_lab.studies.grass_paper.quantities import QUANTITIES
from tests.figures.test_drawings import check_texts, text_boxes

KINDS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RULES = ["frozen", "svd", "track", "walk", "jump"]
METHODS = ["adamw", "grasswalk", "grassjump", "galore", "onlinesubspacedescent"]


def rows(**columns: list) -> pd.DataFrame:
    """All combinations of the columns, with numbers drawn beside them."""
    table = pd.DataFrame(itertools.product(*columns.values()), columns=list(columns))
    rng = np.random.default_rng(0)
    for name in ("eval_loss", "ratio", "singular_value", "normalized", "limiter", "recovery_share", "bulk_share",
                 "refresh_share"):  # fmt: skip
        table[name] = rng.uniform(0.3, 0.9, len(table))
    return table


TABLES = {
    "fig1": rows(seed=[0, 1], step=[0, 10, 20], kind=KINDS, depth=[0, 1], rank=[4, 32]).assign(
        m=128, null_noise=0.7, null_isotropic=0.5),
    "fig2": rows(seed=[0, 1], step=[10, 100], kind=KINDS, index=list(range(20))).assign(
        rank=32, lag_steps=10, null_noise=0.01),
    "fig3": rows(rule=RULES, moments=["keep", "transport"], recovery=["none", "limited", "free"], seed=[0, 1, 2]),
    "recovery": rows(rule=RULES, recovery=["none", "limited", "free"], seed=[0, 1], step=[5, 10, 15]),
    "random_bases": rows(rule=["walk", "hybrid", "jump", "coordinates"], recovery=["limited", "free"], seed=[0, 1]),
    "sensitivity": rows(setting=["rank", "update_interval", "walk_step", "zeta", "scale"],
                        value=[1.0, 2.0, float("nan")], seed=[0, 1]).assign(usual=lambda t: t["value"] == 2.0),
    "refresh": rows(method=METHODS, seed=[0, 1]),
    "relation": rows(method=METHODS).assign(energy=lambda t: t["ratio"], flatness=lambda t: t["limiter"],
                                          steepness=0.5, rho_energy=0.1, p_energy=0.5, rho_flatness=float("nan"),
                                          p_flatness=float("nan"), rho_steepness=-1.0, p_steepness=0.0),
    "tables": rows(method=METHODS).assign(seeds=3, eval_high=lambda t: t["eval_loss"] + 0.1, state_bytes=1e6,
                                          wall_s=9.0),
}  # fmt: skip
TABLES |= {"fig1_depth": TABLES["fig1"], "fig2_raw": TABLES["fig2"], "pareto": TABLES["tables"]}
PICTURES = {name: picture for quantity in QUANTITIES.values() for name, picture in quantity.pictures.items()}
each_picture = pytest.mark.parametrize("name", TABLES)


def panel(figure: Figure, title: str):
    (ax,) = (ax for ax in figure.axes if ax.get_title(loc="left") == title)
    return ax


@each_picture
@pytest.mark.parametrize("layout", [PAGE, NARROW], ids=["page", "narrow"])
def test_no_text_is_cut_or_covered(name, layout):
    figure = PICTURES[name].draw(TABLES[name], layout)
    check_texts(PICTURES[name].title, text_boxes(figure, layout), figure.bbox)


@each_picture
def test_a_table_is_read_only(name):
    before = TABLES[name].copy()
    PICTURES[name].draw(TABLES[name])
    pd.testing.assert_frame_equal(TABLES[name], before)


@each_picture
def test_an_empty_table_is_said_to_be_one(name):
    with pytest.raises(AbsentError):
        PICTURES[name].draw(TABLES[name].head(0))


def test_energy_lines_are_means_of_seeds_and_blocks():
    table = TABLES["fig1"]
    ax = panel(PICTURES["fig1"].draw(table), "r = 32, r/m = 1/4")
    of_kind = table.query("rank == 32 and kind == 'v_proj'").groupby("step")["ratio"].mean()
    np.testing.assert_allclose(ax.lines[KINDS.index("v_proj")].get_xydata(), of_kind.reset_index().to_numpy())
    assert {line.get_ydata()[0] for line in ax.lines[len(KINDS) :]} == {0.7, 0.5}


def test_tangent_lines_are_of_single_steps():
    table = TABLES["fig2"]
    for name, column in (("fig2", "normalized"), ("fig2_raw", "singular_value")):
        ax = panel(PICTURES[name].draw(table), "o_proj")
        late = table.query("kind == 'o_proj' and step == 100").groupby("index")[column].mean()
        np.testing.assert_allclose(ax.lines[1].get_ydata(), late)
        assert ax.lines[1].get_xdata()[0] == 1
        assert len(ax.lines) == 2 + (name == "fig2")  # with the null


def test_the_ablation_shows_every_seed_the_null_and_the_limiters_factor():
    table = TABLES["fig3"]
    figure = PICTURES["fig3"].draw(table)
    ax = panel(figure, "AO, RS")
    of_panel = table.query("moments == 'transport' and recovery == 'limited'")
    for place, rule in enumerate(RULES):
        of_rule = of_panel[of_panel["rule"] == rule]
        losses = of_rule["eval_loss"]
        points, bar = ax.lines[2 * place], ax.lines[2 * place + 1]
        assert list(points.get_ydata()) == list(losses)
        assert bar.get_ydata()[0] == pytest.approx(losses.mean())
        assert ax.texts[place].get_text() == f"×{of_rule['limiter'].mean():.2f}"
    assert ax.lines[-1].get_ydata()[0] == pytest.approx(of_panel.query("rule == 'frozen'")["eval_loss"].mean())
    assert not panel(figure, "AO, no RS").texts


def test_how_many_seeds_is_said():
    table = TABLES["fig3"]
    assert "rule (3 seeds)" in [text.get_text() for text in PICTURES["fig3"].draw(table).findobj(Text)]
    part = table[(table["seed"] == 0) | (table["rule"] == "svd")]
    assert "rule (1 to 3 seeds)" in [text.get_text() for text in PICTURES["fig3"].draw(part).findobj(Text)]


def test_refresh_shares_are_percent():
    bars = {round(bar.get_width(), 6) for bar in PICTURES["refresh"].draw(TABLES["refresh"]).axes[0].patches}
    assert bars == set((100 * TABLES["refresh"].groupby("method")["refresh_share"].mean()).round(6))


def test_no_zeta_is_called_none():
    ax = PICTURES["sensitivity"].draw(TABLES["sensitivity"]).axes[3]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "2", "none"]


def of_methods(*losses: float) -> pd.DataFrame:
    """Methods whose state is 1, 2, 3, ... MB, and whose time falls."""
    places = range(len(losses))
    return pd.DataFrame({
        "method": METHODS[: len(losses)], "seeds": 3, "eval_loss": losses,
        "eval_high": [loss + 0.01 for loss in losses],
        "state_bytes": [1e6 * (place + 1) for place in places], "wall_s": [9.0 - place for place in places],
    })  # fmt: skip


def test_the_line_joins_what_nothing_beats_in_both():
    """By state 4.0, then 3.8; by time, from the right, 3.9 and 3.8."""
    figure = PICTURES["pareto"].draw(of_methods(4.0, 3.8, 3.95, 3.9))
    lines = [
        [tuple(point) for point in line.get_xydata().round(6)]
        for ax in figure.axes
        for line in ax.lines
        if line.get_drawstyle() == "steps-post"
    ]
    assert lines == [[(1.0, 4.0), (2.0, 3.8)], [(6.0, 3.9), (8.0, 3.8)]]


def test_a_method_far_above_the_others_is_named_beside_the_axis():
    table = of_methods(3.8, 3.81, 3.83, 3.85, 5.2)
    pareto, every = (PICTURES[name].draw(table) for name in ("pareto", "tables"))
    assert pareto.axes[0].get_ylim()[1] < 4.2
    assert "above: OnlineSubspaceDescent, 5.20" in [text.get_text() for text in pareto.findobj(Text)]
    assert every.axes[0].get_xlim()[1] < 4.2
    assert "5.20 → " in [text.get_text() for text in every.findobj(Text)]
    near = PICTURES["pareto"].draw(table.head(4))
    assert not any(text.get_text().startswith("above:") for text in near.findobj(Text))
