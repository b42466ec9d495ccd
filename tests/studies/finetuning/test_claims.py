"""Every claim on tables made by hand: where it holds, where it fails, where it is open, and the numbers themselves."""

from __future__ import annotations

import math

import pytest

from subspace_lab.experiments.claims import INCONCLUSIVE, REFUTED, SUPPORTED, Statement, together
from subspace_lab.studies.finetuning.claims import CLAIMS
from tests.studies.finetuning.by_hand import Tables, captured, trainings
from tests.studies.grass_paper.by_hand import T2


def claim(name: str):
    (found,) = (one for one in CLAIMS if one.name == name)
    return found


def stated(name: str, store: Tables) -> list[Statement]:
    """Before they are adjusted for each other."""
    return claim(name).measure(store)


def verdicts(name: str, store: Tables) -> list[str]:
    return [one.verdict for one in stated(name, store)]


def around(mean: float, wiggle: float = 0.001) -> list[float]:
    """Three seeds of a mean, none like those of another wiggle."""
    return [mean - wiggle, mean, mean + wiggle]


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.7, [SUPPORTED, SUPPORTED]), (0.9, [SUPPORTED, REFUTED]), (1.2, [REFUTED, REFUTED])],
)
def test_time_is_relative_to_galore_and_paired_by_seed(share, expected):
    """GaLore's seeds take 100, 200 and 300 seconds, of which SubTrack takes a share, two points up and down."""
    mine = [100 * (share - 0.02), 200 * share, 300 * (share + 0.02)]
    store = Tables(results=trainings({"galore": {"wall_s": [100, 200, 300]}, "subtrack": {"wall_s": mine}}))
    found = stated("Time", store)
    assert [one.text.partition(":")[0] for one in found] == ["sentiment", "arithmetic"] * 2
    assert [one.verdict for one in found] == [expected[0]] * 2 + [expected[1]] * 2
    half = T2 * 0.02 / math.sqrt(3)
    for one, mean in zip(found, [share - 1] * 2 + [share - 0.85] * 2, strict=True):
        assert (one.mean, one.low, one.high) == pytest.approx((mean, mean - half, mean + half))
    assert "15%" in found[-1].text


QUALITY = {
    "Peers": [("subtrack", "galore"), ("subtrack", "badam")],
    "Full rank": [("subtrack", "adamw")],
    "Random updates": [("grasswalk", "subtrack"), ("grasswalk", "galore"), ("grassjump", "subtrack"),
                       ("grassjump", "galore")],
    "Adapters": [("subtrack", "lora"), ("grasswalk", "lora"), ("grassjump", "lora")],
}  # fmt: skip
each = pytest.mark.parametrize("name", QUALITY)


@each
def test_each_statement_is_the_difference_of_its_two_methods(name):
    """Scores are higher where they are better, losses lower; both may be worse by 0.02."""
    methods = list(dict.fromkeys(method for pair in QUALITY[name] for method in pair))
    numbers = {
        method: {
            "score": around(0.1 + math.sqrt(place) / 10, place / 1e3),
            "eval_loss": around(2 + math.sqrt(place + 2)),
        }
        for place, method in enumerate(methods)
    }
    mean = {method: {column: values[1] for column, values in columns.items()} for method, columns in numbers.items()}
    found = stated(name, Tables(results=trainings(numbers)))
    pairs = QUALITY[name]
    assert len(found) == 2 * 2 * len(pairs)
    wanted = [mean[other]["score"] - mean[one]["score"] - 0.02 for _ in range(2) for one, other in pairs]
    wanted += [mean[one]["eval_loss"] - mean[other]["eval_loss"] - 0.02 for _ in range(2) for one, other in pairs]
    assert [one.mean for one in found] == pytest.approx(wanted)
    assert {one.seeds for one in found} == {3}
    assert sum("right replies" in one.text for one in found) == sum("held-out loss" in one.text for one in found)


@each
@pytest.mark.parametrize(
    ("score", "loss", "expected"),
    [
        (0.05, -0.1, [SUPPORTED, SUPPORTED]),
        (-0.019, 0.019, [SUPPORTED, SUPPORTED]),
        (-0.021, 0.019, [REFUTED, SUPPORTED]),
        (0.05, 0.021, [SUPPORTED, REFUTED]),
        (-0.1, 0.1, [REFUTED, REFUTED]),
    ],
)
def test_quality_in_both_directions(name, score, loss, expected):
    """Whatever is to match or beat is so much better or worse than what it is compared with; one pair at a time."""
    for one, other in QUALITY[name]:
        numbers = {
            other: {"score": around(0.5, 1e-6), "eval_loss": around(1.0, 1e-6)},
            one: {"score": around(0.5 + score, 2e-6), "eval_loss": around(1 + loss, 2e-6)},
        }
        found = verdicts(name, Tables(results=trainings(numbers, tasks=["sentiment"]), tasks=["sentiment"]))
        assert found == expected


@each
def test_quality_is_open_where_seeds_scatter_and_absent_without_methods(name):
    methods = list(dict.fromkeys(method for pair in QUALITY[name] for method in pair))
    numbers = {
        method: {"score": around(0.5, 0.1 * (place + 1)), "eval_loss": around(1.0, 0.1 * (place + 1))}
        for place, method in enumerate(methods)
    }
    assert {*verdicts(name, Tables(results=trainings(numbers)))} == {INCONCLUSIVE}
    assert stated(name, Tables()) == []
    assert stated(name, Tables(results=trainings({methods[0]: {}}))) == []


@pytest.mark.parametrize(
    ("state", "peak", "expected"),
    [
        (1000.0, 4000.0, [SUPPORTED] * 4),
        (1009.0, 4000.0, [SUPPORTED] * 4),
        (1011.0, 6000.0, [REFUTED, SUPPORTED, SUPPORTED, REFUTED]),
        (2500.0, 4000.0, [REFUTED, REFUTED, SUPPORTED, SUPPORTED]),
        (9000.0, 4000.0, [REFUTED, REFUTED, REFUTED, SUPPORTED]),
    ],
)
def test_memory_in_both_directions(state, peak, expected):
    """GaLore keeps 1000 bytes, LDAdam 2000, AdamW 4000; its peak is 5000. One percent more state is no more state."""
    numbers = {"galore": {"state_bytes": 1000.0}, "ldadam": {"state_bytes": 2000.0}, "adamw": {"state_bytes": 4000.0},
               "subtrack": {"state_bytes": state, "peak_bytes": peak}}  # fmt: skip
    assert verdicts("Memory", Tables(results=trainings(numbers, tasks=["sentiment"]))) == expected


def test_the_statements_of_a_claim_are_a_family():
    """Alone each of the four is decided, as one of four none is."""
    mean = 0.02 + T2 * 0.001 / math.sqrt(3) * 1.05
    numbers = {"galore": {"score": 0.5, "eval_loss": 1.0},
               "subtrack": {"score": around(0.5 - mean), "eval_loss": around(1 + mean)}}  # fmt: skip
    store = Tables(results=trainings(numbers))
    assert verdicts("Peers", store) == [REFUTED] * 4
    assert [one.verdict for one in claim("Peers").statements(store)] == [INCONCLUSIVE] * 4


@pytest.mark.parametrize("source", ["task", "text"])
@pytest.mark.parametrize(
    ("name", "holds", "fails"),
    [
        ("W1", lambda *_: {"ratio": 0.7}, lambda *_: {"ratio": 0.4}),
        ("W2", lambda step, depth: {"ratio": 0.9 - step / 100}, lambda step, depth: {"ratio": 0.5 + step / 100}),
        ("W3", lambda step, depth: {"ratio": 0.9 - depth / 10}, lambda step, depth: {"ratio": 0.5 + depth / 10}),
    ],
)
def test_claims_about_energy_in_both_directions_for_each_pretrained_source(source, name, holds, fails):
    """Noise has a ratio of one half; the other source is refuted, and training from scratch counts for nothing."""

    def value(of, seed, step, kind, depth, rank):
        chosen = {source: holds, "scratch": holds}.get(of, fails)
        ratio = chosen(step, depth)["ratio"] + 0.001 * seed * (1 + step + depth) / 10
        return {"ratio": ratio}

    found = stated(name, Tables(**captured(value)))
    words = {"task": "pretrained, on the task", "text": "pretrained, on text"}
    assert [one.text.startswith(f"{words[source]}: ") for one in found].count(True) == len(found) / 2 == 2
    for one in found:
        assert one.verdict == (SUPPORTED if one.text.startswith(f"{words[source]}: ") else REFUTED)
    assert together(found) == REFUTED


def test_w1_numbers():
    """At a quarter of 64: ratios 0.7, 0.72 and 0.74, of noise 0.5, the root of what the table has."""
    store = Tables(**captured(lambda source, seed, *_: {"ratio": 0.7 + 0.02 * seed if _[-1] == 16 else 0.1}))
    above_half, above_noise, *_ = stated("W1", store)
    assert above_half.mean == pytest.approx(0.5 - 0.72)
    assert above_noise.mean == pytest.approx(0.5 - 0.72)
    assert "r/m = 1/4" in above_half.text


@pytest.mark.parametrize(
    ("largest", "down", "even", "expected"),
    [
        (0.1, 0.15, lambda step: 0.1 + step / 100, [SUPPORTED] * 3),
        (0.3, 0.25, lambda step: 0.5 - step / 100, [REFUTED] * 3),
    ],
)
def test_w4_in_both_directions(largest, down, even, expected):
    """Below noise's 0.2, largest for down_proj, more even at the end than in the beginning; or the opposite of each."""

    def value(source, seed, step, kind, depth, rank):
        size = (down if kind == "down_proj" else largest) + 0.001 * seed
        return {"ratio": 0.5, "largest": size, "even": even(step) * (1 + 0.01 * seed)}

    assert verdicts("W4", Tables(**captured(value))) == expected * 2


def test_claims_about_gradients_without_captured_runs():
    for name in ("W1", "W2", "W3", "W4"):
        assert stated(name, Tables()) == []
        assert stated(name, Tables(**captured(lambda *_: {"ratio": 0.7}, sources=["scratch"]))) == []
