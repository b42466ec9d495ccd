"""Every claim on tables made by hand: where it holds, where it fails, where it is open, and the numbers themselves."""

from __future__ import annotations

import math
from collections.abc import Callable

import pandas as pd
import pytest
from scipy import stats

from subspace_lab.experiments.claims import INCONCLUSIVE, REFUTED, SUPPORTED, Statement
from subspace_lab.studies.grass_paper.claims import CLAIMS
from subspace_lab.studies.grass_paper.profiles import PROFILES
from tests.studies.grass_paper.by_hand import T2, Tables, table, trainings

Pairs = list[tuple[str, str, float]]  # one is below the other, or worse by less than so many nats

# in the order of the page; AO: transported moments, RS: recovery with the limiter, RS free: without
PAIRS: dict[str, Pairs] = {
    "W5": [
        ("grasswalk", "svd+AO+RS", 0.02), ("grasswalk", "subtrack", 0.02),
        ("grassjump", "svd+AO+RS", 0.02), ("grassjump", "subtrack", 0.02),
        ("grasswalk", "walk+RS", 0), ("grasswalk", "walk+AO", 0), ("grassjump", "jump+RS", 0),
        ("grassjump", "jump+AO", 0),
    ],
    "W6": [
        (ours, peer, 0)
        for ours in ("grasswalk", "grassjump")
        for peer in ("galore", "apollo", "ldadam", "frugal", "subtrack")
    ],
    "W6 twice": [
        (f"{ours}{size}", f"{peer}{size}", 0)
        for size in ("", " llama-7m")
        for ours in ("grasswalk", "grassjump")
        for peer in ("galore", "subtrack")
    ],
    "Against AdamW": [
        (f"{name}{size}", f"adamw{size}", 0.02)
        for size in ("", " llama-7m")
        for name in ("grasswalk", "ldadam", "badam", "frozen+AO+RS")
    ],
    "SubTrack's ablation": [
        ("track+AO", "track", 0), ("track+RS", "track", 0), ("subtrack", "track+AO", 0), ("subtrack", "track+RS", 0),
    ],
    "The null": [
        ("svd+AO+RS", "frozen+AO+RS", 0), ("subtrack", "frozen+AO+RS", 0), ("grasswalk", "frozen+AO+RS", 0),
        ("grassjump", "frozen+AO+RS", 0), ("svd+AO+RS free", "frozen+AO+RS free", 0),
        ("track+AO+RS free", "frozen+AO+RS free", 0), ("walk+AO+RS free", "frozen+AO+RS free", 0),
        ("jump+AO+RS free", "frozen+AO+RS free", 0), ("grasswalk", "random basis, never moved", 0),
        ("grassjump", "random basis, never moved", 0),
    ],
    "The limiter": [
        ("frozen+AO+RS free", "frozen+AO+RS", 0), ("svd+AO+RS free", "svd+AO+RS", 0),
        ("track+AO+RS free", "subtrack", 0), ("walk+AO+RS free", "grasswalk", 0), ("jump+AO+RS free", "grassjump", 0),
    ],
}  # fmt: skip
each_claim = pytest.mark.parametrize("name", PAIRS)


def stated(name: str, store: Tables) -> list[Statement]:
    """Before they are adjusted for each other."""
    (claim,) = (claim for claim in CLAIMS if claim.name == name.removesuffix(" twice"))
    return claim.measure(store)  # type: ignore[arg-type]


def names_of(pairs: Pairs) -> list[str]:
    return list(dict.fromkeys(name for one, other, _ in pairs for name in (one, other)))


def spread(losses: dict[str, float], wiggle: Callable[[int], float]) -> Tables:
    """Three seeds of each, all moved alike by the seed but for a wiggle; and a learning rate that nobody should see."""
    grid = {
        name: {3e-3: [loss + wiggle(place) * sign + shift for sign, shift in ((-1, 0.0), (0, 0.7), (1, 0.2))],
               8e-3: [loss + 3]}
        for place, (name, loss) in enumerate(losses.items())
    }  # fmt: skip
    return Tables(PROFILES["cpu"], results=trainings(grid))


@each_claim
def test_each_statement_is_the_difference_of_its_two_methods(name: str) -> None:
    """Losses are roots of whole numbers, so that no other two differ by the same."""
    losses = {method: 3 + math.sqrt(place + 2) for place, method in enumerate(names_of(PAIRS[name]))}
    places = {method: place for place, method in enumerate(losses)}
    found = stated(name, spread(losses, lambda place: 0.01 * place**2))
    assert len(found) == len(PAIRS[name])
    for one, (low, high, margin) in zip(found, PAIRS[name], strict=True):
        mean = losses[low] - losses[high] - margin
        half = T2 * 0.01 * abs(places[low] ** 2 - places[high] ** 2) / math.sqrt(3)
        assert (one.mean, one.low, one.high) == pytest.approx((mean, mean - half, mean + half), rel=1e-9)
        assert one.seeds == 3


@each_claim
def test_it_holds_where_every_method_is_below_its_other(name: str) -> None:
    pairs = PAIRS[name]
    losses = dict.fromkeys(names_of(pairs), 4.0)
    for _ in pairs:  # each below all that it is to be below
        for one, other, _margin in pairs:
            losses[one] = min(losses[one], losses[other] - 0.1)
    assert {one.verdict for one in stated(name, spread(losses, lambda place: 0.001 * place))} == {SUPPORTED}
    mirrored = {method: 8 - loss for method, loss in losses.items()}
    assert {one.verdict for one in stated(name, spread(mirrored, lambda place: 0.001 * place))} == {REFUTED}


@each_claim
def test_it_is_open_where_all_are_alike(name: str) -> None:
    losses = dict.fromkeys(names_of(PAIRS[name]), 4.0)
    assert {one.verdict for one in stated(name, spread(losses, lambda place: 0.1 * (place + 1)))} == {INCONCLUSIVE}


@each_claim
def test_a_method_that_is_not_there_takes_its_statements_with_it(name: str) -> None:
    gone = PAIRS[name][0][0]
    losses = {method: 4.0 for method in names_of(PAIRS[name]) if method != gone}
    left = [pair for pair in PAIRS[name] if gone not in pair]
    assert len(stated(name, spread(losses, lambda _: 0.1))) == len(left)
    assert stated(name, Tables(PROFILES["cpu"])) == []


@pytest.mark.parametrize(("worse", "verdict"), [(0.0199, SUPPORTED), (0.0201, REFUTED)])
def test_two_hundredths_of_a_nat_are_a_match(worse: float, verdict: str) -> None:
    losses = {"grasswalk": 4 + worse, "svd+AO+RS": 4.0, "subtrack": 4.0}
    assert [one.verdict for one in stated("W5", spread(losses, lambda place: 1e-6 * place))] == [verdict] * 2


SAME = ("grasswalk scale=0.25", "grasswalk", "galore", "svd")


@pytest.mark.parametrize(
    ("gap", "verdicts"), [(0.0, [SUPPORTED] * 2), (0.019, [SUPPORTED] * 2), (0.021, [REFUTED, SUPPORTED]),
                          (-0.021, [SUPPORTED, REFUTED])],
)  # fmt: skip
def test_a_scale_makes_no_difference_where_both_match_each_other(gap: float, verdicts: list[str]) -> None:
    losses = {"grasswalk scale=0.25": 4 + gap, "grasswalk": 4.0, "galore": 5 + gap, "svd": 5.0}
    found = stated("The scale", spread(losses, lambda place: 1e-6 * place))
    assert [one.verdict for one in found] == verdicts * 2
    assert [one.mean for one in found] == pytest.approx([gap - 0.02, -gap - 0.02] * 2)


def test_the_statements_of_a_claim_are_adjusted_for_each_other() -> None:
    """Two statements at p = 0.03 each: both would be decided alone, none is as one of two."""
    half = 0.1 / math.sqrt(3)
    mean = half * float(stats.t.isf(0.015, 2))
    losses = {"grasswalk": 4 + mean, "svd+AO+RS": 3.98, "subtrack": 3.98}
    store = spread(losses, lambda place: 0.1 if place == 0 else 0.0)
    (claim,) = (claim for claim in CLAIMS if claim.name == "W5")
    assert [one.verdict for one in claim.measure(store)] == [REFUTED] * 2  # type: ignore[arg-type]
    assert [one.verdict for one in claim.statements(store)] == [INCONCLUSIVE] * 2


ENERGY = "seed kind depth step rank m ratio null_noise"


def energies(ratio: Callable[[int, int, int, int], float], noise: float = 0.0) -> Tables:
    """By seed, place of the step, depth and rank; ranks 4, 17 and 22, of widths whose median is 64 and mean 85."""
    steps = (0, 10, 20, 40, 80, 90, 100, 300)
    rows = [
        (seed, kind, depth, step, rank, m, ratio(seed, place, depth, rank), noise + 0.01 * seed)
        for seed in range(3) for kind, m in (("q_proj", 64), ("k_proj", 64), ("up_proj", 128))
        for depth in range(5) for place, step in enumerate(steps) for rank in (22, 4, 17)
    ]  # fmt: skip
    return Tables(fig1=table(ENERGY, *rows))


def test_w1_is_the_mean_at_the_rank_nearest_a_quarter_of_the_median_width() -> None:
    """The mean over places 0 to 7 of p squared is 17.5, over depths 0 to 4 of d squared 6."""
    store = energies(
        lambda seed, place, depth, rank: (
            0.5 + 0.001 * place**2 + 0.002 * depth**2 + 0.03 * seed**2 if rank == 17 else 0.1 * rank
        ),
        noise=0.25,
    )
    above_half, above_noise = stated("W1", store)
    means = [0.5 + 0.0175 + 0.012 + 0.03 * seed**2 for seed in range(3)]  # 0.5295, 0.5595, 0.6495
    assert above_half.mean == pytest.approx(0.5 - sum(means) / 3)
    half = T2 * math.sqrt((0.05**2 + 0.02**2 + 0.07**2) / 2) / math.sqrt(3)  # deviations of 0, 0.03, 0.12
    assert (above_half.low, above_half.high) == pytest.approx((-0.0795 - half, -0.0795 + half))
    assert above_noise.mean == pytest.approx(0.25 + 0.01 - 0.5795)
    assert "r/m = 1/3.76471 " in above_half.text  # 64 / 17


@pytest.mark.parametrize(
    ("ratio", "noise", "verdicts"),
    [
        (0.6, 0.5, [SUPPORTED, SUPPORTED]),
        (0.4, 0.3, [REFUTED, SUPPORTED]),
        (0.6, 0.7, [SUPPORTED, REFUTED]),
        (0.5, 0.49, [INCONCLUSIVE, INCONCLUSIVE]),
    ],
)
def test_w1_in_all_directions(ratio: float, noise: float, verdicts: list[str]) -> None:
    store = energies(lambda seed, *_: ratio + 0.01 * (seed - 1) * (-1) ** seed, noise)
    assert [one.verdict for one in stated("W1", store)] == verdicts


def test_w2_compares_the_outer_thirds_and_w3_the_ends_of_a_fitted_line() -> None:
    """Of eight steps the first and the last two count, of five blocks all; the seed stretches the change."""
    of_place, of_depth = (1, 2, 9, 9, 9, 9, 4, 8), (1, 7, 7, 7, 3)
    store = energies(
        lambda seed, place, depth, rank: (seed + 1) * (0.001 * rank * of_place[place] + 0.01 * rank * of_depth[depth])
    )
    changes = {"W2": (4 + 8) / 2 - (1 + 2) / 2, "W3": 10 * 4 * (2 * (3 - 1) + (7 - 7)) / 10}
    for claim, change in changes.items():
        found = stated(claim, store)
        assert [one.text.split()[2:4] for one in found] == [["=", "1/16"], ["=", "1/3.76471"], ["=", "1/2.90909"]]
        for one, rank in zip(found, (4, 17, 22), strict=True):
            mean, half = 2 * 0.001 * rank * change, T2 * 0.001 * rank * change / math.sqrt(3)
            assert (one.mean, one.low, one.high) == pytest.approx((mean, mean - half, mean + half))


@pytest.mark.parametrize(("claim", "along"), [("W2", 0), ("W3", 1)])
@pytest.mark.parametrize(("slope", "verdict"), [(-0.01, SUPPORTED), (0.01, REFUTED), (0.0, INCONCLUSIVE)])
def test_w2_and_w3_in_all_directions(claim: str, along: int, slope: float, verdict: str) -> None:
    """The other direction falls steeply, which is of no account."""

    def ratio(seed: int, place: int, depth: int, rank: int) -> float:
        way, other = (place, depth) if along == 0 else (depth, place)
        return 0.5 + (slope + 0.002 * (seed - 1)) * way - 0.05 * other

    assert [one.verdict for one in stated(claim, energies(ratio))] == [verdict] * 3


def tangents(value: Callable[[int, str, int, int], float], noise: float = 0.1) -> Tables:
    """By seed, kind, step and index; the 8th value is the last one."""
    rows = [
        (seed, kind, step, index, value(seed, kind, step, index), noise * (1 + seed))
        for seed in range(3) for kind in ("q_proj", "up_proj", "down_proj") for step in (10, 50, 100)
        for index in (0, 3, 7)
    ]  # fmt: skip
    return Tables(fig2=table("seed kind step index normalized null_noise", *rows))


def test_w4_by_hand() -> None:
    """Of every kind at every step: the largest value, and the last one as a share of it."""
    largest = {"q_proj": (0.2, 0.5, 0.2), "up_proj": (0.1, 0.2, 0.3), "down_proj": (0.7, 0.1, 0.7)}
    share = {10: (0.1, 0.2, 0.6), 50: (0.9, 0.9, 0.9), 100: (0.3, 0.4, 0.2)}
    kinds, steps = list(largest), list(share)

    def value(seed: int, kind: str, step: int, index: int) -> float:
        first = (seed + 1) * largest[kind][steps.index(step)]
        return {0: first, 3: 100 + seed, 7: first * share[step][kinds.index(kind)] * (1 + seed / 10)}[index]

    small, down, even = stated("W4", tangents(value))
    mean = 3 / 9 - 0.1  # of seed 0, and its multiples
    assert (small.mean, small.low) == pytest.approx((2 * mean, 2 * mean - T2 * mean / math.sqrt(3)))
    mean = 0.3 - 0.5  # of means over the steps: q_proj has 0.3, up_proj 0.2, down_proj 0.5
    assert (down.mean, down.high) == pytest.approx((2 * mean, 2 * mean + T2 * -mean / math.sqrt(3)))
    mean = 0.9 / 3 - 0.9 / 3
    assert (even.mean, even.seeds) == (pytest.approx(mean, abs=1e-12), 3)
    share[100] = (0.3, 0.4, 0.5)
    even = stated("W4", tangents(value))[2]
    assert even.mean == pytest.approx((0.3 - 0.4) * 1.1)  # 1, 1.1 and 1.2 times
    assert even.high == pytest.approx(-0.11 + T2 * 0.01 / math.sqrt(3))


@pytest.mark.parametrize(
    ("level", "of_down", "growth", "verdicts"),
    [(0.05, 2.0, 0.05, [SUPPORTED] * 3), (0.5, 0.5, -0.05, [REFUTED] * 3), (0.2, 1.0, 0.0, [INCONCLUSIVE] * 3)],
)
def test_w4_in_all_directions(level: float, of_down: float, growth: float, verdicts: list[str]) -> None:
    """Noise has 0.2 in the mean of the seeds; the wiggle changes its sign with the seed."""
    store = tangents(
        lambda seed, kind, step, index: (
            (level + 0.005 * (seed - 1)) * (of_down + 0.01 * (seed - 1) if kind == "down_proj" else 1)
            * (0.3 + (growth + 0.01 * (seed - 1)) * step / 100 if index == 7 else 1)
        )
    )  # fmt: skip
    store.tables["fig2"]["null_noise"] = 0.2
    assert [one.verdict for one in stated("W4", store)] == verdicts


def test_w4_says_less_of_less() -> None:
    store = tangents(lambda *_: 0.1)
    rows = store.tables["fig2"]
    assert len(stated("W4", Tables(fig2=rows[rows["kind"] != "down_proj"]))) == 2
    assert len(stated("W4", Tables(fig2=rows[rows["step"] == 10]))) == 2
    for claim in ("W1", "W2", "W3", "W4"):
        assert stated(claim, Tables(fig1=pd.DataFrame())) == []
