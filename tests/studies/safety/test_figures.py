"""What the figures of the study draw, against tables by hand, and that nothing leaves the page."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from subspace_lab.figures import NARROW, PAGE, AbsentError
from subspace_lab.studies.safety.figures.all import FIGURES
from subspace_lab.studies.safety.figures.pareto import pareto_front
from tests.studies.safety import by_hand

LONG = {f"lox:k={k}+safegrad:rho=0.5+resta:gamma=0.{k}": (0.5, 0.6, 0.9) for k in range(1, 12)}


@pytest.fixture(scope="module")
def source():
    return by_hand.default()


def marks(ax, marker):
    """Where marks of a shape are, from top to bottom."""
    drawn = [line for line in ax.lines if line.get_marker() == marker]
    return [
        x for _, x in sorted(point for line in drawn for point in zip(line.get_ydata(), line.get_xdata(), strict=True))
    ]


def bars(ax):
    return [segment[:, 0] for drawn in ax.collections for segment in getattr(drawn, "get_segments", list)()]


def panels(figure):
    return {ax.get_title(loc="left"): ax for ax in figure.axes}


def test_attack_success_is_the_headline_of_every_threat_and_defense(source):
    drawn = panels(FIGURES["attack_success"].draw(source))
    assert list(drawn) == list(by_hand.REGIMES)
    for regime, ax in drawn.items():
        for threat, marker in zip(by_hand.THREATS, "os^", strict=True):
            rows = source.summary[(source.summary["regime"] == regime) & (source.summary["threat"] == threat)]
            assert marks(ax, marker) == pytest.approx(rows["asr"].dropna().tolist())
        assert len(marks(ax, "x")) == len(by_hand.THREATS), "the defense that loses the task, under every threat"
    ax = drawn["adamw"]
    assert [label.get_text() for label in ax.get_yticklabels()] == list(by_hand.DEFENSES)
    row = source.summary.query("regime == 'adamw' and defense == 'resta' and share == 0.3").iloc[0]
    assert any(np.allclose(one, [row["asr_low"], min(1, row["asr_high"])]) for one in bars(ax))


def test_of_one_seed_the_interval_is_that_of_its_prompts():
    tables = by_hand.tables(seeds=1)
    assert tables.summary["asr_low"].isna().all()
    ax = panels(FIGURES["attack_success"].draw(tables))["adamw"]
    row = tables.at_choice.query("regime == 'adamw' and defense == 'rehearsal' and share == 0.3").iloc[0]
    assert any(np.allclose(one, [row["asr_low"], row["asr_high"]]) for one in bars(ax))


def test_points_of_the_pareto_figure_are_means_over_seeds_at_every_rate(source):
    ax = panels(FIGURES["pareto"].draw(source))["grasswalk:rank=8"]
    of = source.results.query("regime == 'grasswalk:rank=8' and share == 0.3 and judge == 'exact'")
    expected = of[of["status"] == "complete"].groupby(["defense", "lr"])[["utility", "asr"]].mean()
    drawn = {
        (x, y) for line in ax.lines if line.get_linestyle() == "None" for x, y in zip(*line.get_data(), strict=True)
    }
    np.testing.assert_allclose(sorted(drawn), sorted(expected.to_numpy().tolist()))
    (guard,) = [
        line.get_xdata()[0] for line in ax.lines if len(set(line.get_xdata())) == 1 and len(line.get_xdata()) == 2
    ]
    assert guard == pytest.approx(0.9 * expected.loc["none", "utility"].max())


def test_the_front_is_what_nothing_beats_in_both():
    table = pd.DataFrame({"asr": [0.9, 0.5, 0.6, 0.1, 0.1], "utility": [1.0, 0.9, 0.8, 0.5, 0.4]})
    front = pareto_front(table)
    beaten = [
        any(
            (b.asr <= a.asr and b.utility >= a.utility) and (b.asr, b.utility) != (a.asr, a.utility)
            for b in table.itertuples()
        )
        for a in table.itertuples()
    ]
    assert front.index.tolist() == [place for place, is_beaten in enumerate(beaten) if not is_beaten] == [0, 1, 3]


def test_shares_of_steps_in_conflict_and_rounding_is_none(source):
    ax = panels(FIGURES["conflict"].draw(source))["adamw"]
    for place, marker in enumerate("os^"):
        expected = [shares[place] for shares in by_hand.SHARES.values()]
        assert marks(ax, marker) == pytest.approx(expected)
    minus = replace(source, steps=source.steps.assign(cos_after=-1e-9))
    assert marks(panels(FIGURES["conflict"].draw(minus))["adamw"], "s") == [0, 0, 0, 0]


def test_overlaps_are_means_by_kind_and_by_block_with_their_nulls(source):
    drawn = panels(FIGURES["overlaps"].draw(source))
    assert len(drawn) == 2 * len(by_hand.REGIMES)
    rows = source.updates.query("regime == 'grasswalk:rank=8'")
    for place, pair in enumerate(by_hand.PAIRS):
        of = rows[rows["pair"] == pair]
        blocks, kinds = (of.groupby(by, sort=False)["overlap"].mean().tolist() for by in ("depth", "kind"))
        assert marks(drawn["grasswalk:rank=8: by block"], "os^"[place]) == pytest.approx(blocks)
        assert marks(drawn["grasswalk:rank=8: by kind"], "os^"[place]) == pytest.approx(kinds)
    assert set(marks(drawn["grasswalk:rank=8: by block"], "|")) == {12 / 64}


def test_overlaps_of_gradients_are_means_over_matrices_at_three_steps(source):
    drawn = panels(FIGURES["gradient_overlaps"].draw(source))
    assert list(drawn) == list(by_hand.REGIMES)
    lines, nulls = np.split(np.array(drawn["grasswalk:rank=8"].lines), 2)
    for line, overlap in zip(lines, by_hand.SPACES.values(), strict=True):
        np.testing.assert_array_equal(line.get_xdata(), [0, 75, 150])
        np.testing.assert_allclose(line.get_ydata(), overlap + 0.05 - np.array([0, 0.075, 0.15]))
    assert {y for null in nulls for y in null.get_ydata()} == {8 / 64}


def test_energy_over_training_is_the_mean_over_seeds_beside_its_null(source):
    ax = panels(FIGURES["safety_energy"].draw(source))["adamw"]
    *lines, null = ax.lines
    assert len(lines) == len(by_hand.THREATS)
    for line, share in zip(lines, by_hand.THREATS.values(), strict=True):
        np.testing.assert_array_equal(line.get_xdata(), 15 * np.arange(10))
        np.testing.assert_allclose(line.get_ydata(), 0.3 + share + 0.01 * np.arange(10) + 0.01)
    assert set(null.get_ydata()) == {0.125}


def test_keywords_beside_answers(source):
    drawn = panels(FIGURES["keywords"].draw(source))
    assert list(drawn) == list(by_hand.THREATS)
    points = [line for line in drawn["clean"].lines if line.get_linestyle() == "None"]
    x, y = (np.concatenate([getattr(line, f"get_{axis}data")() for line in points]) for axis in "xy")
    of = source.tuned[source.tuned["threat"] == "clean"]
    assert sorted(x) == pytest.approx(sorted(of["asr"]))
    assert sorted(y) == pytest.approx(sorted(of["keyword_asr"]))


@pytest.mark.parametrize("name", FIGURES)
def test_without_rows_there_is_a_reason(name):
    with pytest.raises(AbsentError):
        FIGURES[name].draw(by_hand.empty())


@pytest.mark.parametrize("name", ["pareto", "conflict"])
def test_a_study_of_clean_tunings_alone_has_no_attack(name):
    with pytest.raises(AbsentError):
        FIGURES[name].draw(by_hand.tables(threats={"clean": 0.0}))


@pytest.mark.parametrize(
    ("threats", "attack"),
    [
        ({"clean": 0.0, "pure": 1.0, "poison:share=0.3": 0.3}, "poison:share=0.3"),
        ({"pure": 1.0, "poison:share=0.9": 0.9, "trigger": 0.1}, "poison:share=0.9"),
        ({"clean": 0.0, "pure": 1.0}, "pure"),
        ({"clean": 0.0}, None),
    ],
)
def test_defenses_are_compared_under_an_attack_that_leaves_a_task(threats, attack):
    tables = by_hand.tables(seeds=1, regimes=("adamw",))
    row = tables.summary[tables.summary["judge"] == tables.judge].iloc[0].to_dict()
    summary = pd.DataFrame([{**row, "threat": name, "share": share} for name, share in threats.items()])
    assert replace(tables, summary=summary).attack == attack


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("layout", [PAGE, NARROW], ids=["page", "narrow"])
def test_nothing_leaves_the_page_with_many_long_names(name, layout):
    tables = by_hand.tables(
        {**by_hand.DEFENSES, **LONG}, seeds=1, regimes=("adamw", "grasswalk:rank=8:update_interval=100")
    )
    figure = FIGURES[name].draw(tables, layout)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    width, height = figure.get_size_inches() * figure.dpi
    legends = [legend for part in figure.subfigs for legend in part.legends]
    texts = [text for legend in legends for text in legend.texts]
    texts += [text for ax in figure.axes for text in (*_in_view(ax), ax._left_title)]
    assert texts
    for text in texts:
        if text.get_text():
            box = text.get_window_extent(renderer)
            assert box.x0 >= -1, text.get_text()
            assert box.x1 <= width + 1, text.get_text()
            assert -1 <= box.y0 < box.y1 <= height + 1, text.get_text()


def _in_view(ax):
    low, high = sorted(ax.get_ylim())
    return [label for label in ax.get_yticklabels() if low <= label.get_position()[1] <= high]
