"""What quantities of captured runs measure, on tables made by hand."""

from __future__ import annotations

import math

import pytest

from subspace_lab.studies.grass_paper.profiles import PROFILES
from subspace_lab.studies.grass_paper.quantities import energy, relation, tangent
from tests.studies.grass_paper.by_hand import Tables, records, table, trainings

ENERGY = "method seed step kind depth rank m ratio null_noise null_isotropic"
TANGENT = "method seed step kind depth index rank lag_steps singular_value normalized null_noise"


def test_nulls_of_the_energy_are_roots_as_the_ratio_is() -> None:
    """Only AdamW's runs are shown; the nulls come as shares of squares."""
    rows = table(
        ENERGY,
        ("adamw", 0, 10, "q_proj", 1, 16, 64, 0.75, 0.36, 0.25),
        ("galore", 0, 10, "q_proj", 1, 16, 64, 0.7, 0.49, 0.25),
        ("adamw", 1, 20, "up_proj", 0, 32, 64, 0.875, 0.81, 0.5),
    )
    found = energy.measure(Tables(captured_energy=rows))
    assert list(found.columns) == ENERGY.split()[1:]
    assert records(found, "seed step kind depth rank m ratio") == [
        (0, 10, "q_proj", 1, 16, 64, 0.75), (1, 20, "up_proj", 0, 32, 64, 0.875),
    ]  # fmt: skip
    assert found["null_noise"].tolist() == pytest.approx([0.6, 0.9])
    assert found["null_isotropic"].tolist() == pytest.approx([0.5, math.sqrt(0.5)])


@pytest.mark.parametrize(
    ("steps", "shown"),
    [((5, 10, 70, 75, 90), [5, 70, 90]), ((5, 10, 70, 90), [5, 70, 90]), ((5, 10), [5, 10]), ((5,), [5])],
)
def test_tangents_are_means_over_layers_at_the_ends_and_in_the_middle(steps: tuple[int, ...], shown: list[int]) -> None:
    """Blocks 0, 1 and 2 have 1, 2 and 6 times as much: 3 times in the mean."""
    rows = [
        (method, seed, step, kind, depth, index, 4, 5, 8.0 * share, 0.001 * step * share + seed + index, 0.1 * share)
        for method in ("adamw", "rso") for seed in (0, 1) for step in steps
        for kind in ("up_proj", "q_proj") for depth, share in enumerate((1, 2, 6)) for index in (0, 1)
    ]  # fmt: skip
    found = tangent.measure(Tables(captured_tangent=table(TANGENT, *rows)))
    assert records(found, "seed step kind index rank lag_steps") == [
        (seed, step, kind, index, 4, 5)
        for seed in (0, 1) for step in shown for kind in ("up_proj", "q_proj") for index in (0, 1)
    ]  # fmt: skip
    assert found["normalized"].tolist() == pytest.approx(
        (0.003 * found["step"] + found["seed"] + found["index"]).tolist()
    )
    assert found["singular_value"].tolist() == pytest.approx([24.0] * len(found))
    assert found["null_noise"].tolist() == pytest.approx([0.3] * len(found))


PLACES = {
    "adamw": (3, 1, 4),
    "galore": (1, 2, 3),
    "rso": (2, 3, 2),
    "fira": (4, 4, 1),
}  # of energy, flatness, steepness
LOSSES = {"adamw": 3.0, "galore": 3.1, "rso": 3.2, "fira": 4.9}


def captured(methods: list[str]) -> Tables:
    """Only the later half of the first seed, the methods' rank and the outer two values count."""
    energies, tangents = [], []
    for method in methods:
        e, f, s = PLACES[method]
        for seed, step, kind in ((s_, t, k) for s_ in (0, 1) for t in (0, 49, 50, 100) for k in ("q_proj", "up_proj")):
            counts = seed == 0 and step >= 50
            for rank in (8, 16, 32):
                ratio = 0.1 * e + (0.03 if step == 100 else 0) + (0.06 if kind == "up_proj" else 0)
                row = (kind, 0, rank, 64, ratio if counts and rank == 16 else 0.01 * (5 - e), 0.1, 0.1)
                energies.append((method, seed, step, *row))
            first = s * (1.0 if kind == "q_proj" else 3.0)  # the mean is twice s
            share = 0.1 * f * (0.5 if step == 50 else 1.5)
            for index, value in ((0, first), (1, 9.0 - s), (5, first * share)):
                row = (kind, 0, index, 4, 5, 1.0, value if counts else 10.0 / (1 + s * (1 + index)), 0.1)
                tangents.append((method, seed, step, *row))
    cells = trainings({name: {1e-3: [loss - 0.05, loss + 0.05], 3e-3: [9.0]} for name, loss in LOSSES.items()})
    return Tables(
        PROFILES["cpu"],
        results=cells,
        captured_energy=table(ENERGY, *energies),
        captured_tangent=table(TANGENT, *tangents),
    )


def test_the_relation_is_that_of_late_means_to_the_loss() -> None:
    found = relation.measure(captured(list(PLACES))).set_index("method").loc[list(PLACES)]
    assert found["eval_loss"].tolist() == pytest.approx(list(LOSSES.values()))
    assert found["energy"].tolist() == pytest.approx([0.1 * e + 0.045 for e, _, _ in PLACES.values()])
    assert found["flatness"].tolist() == pytest.approx([0.1 * f for _, f, _ in PLACES.values()])
    assert found["steepness"].tolist() == pytest.approx([2.0 * s for _, _, s in PLACES.values()])
    # places by loss 1, 2, 3, 4 against 3, 1, 2, 4: squares of the differences sum up to 6; p is 1 - |rho| of four
    for name, rho in (("energy", 1 - 6 * 6 / 60), ("flatness", 1.0), ("steepness", -1.0)):
        assert found[f"rho_{name}"].tolist() == pytest.approx([rho] * 4)
        assert found[f"p_{name}"].tolist() == pytest.approx([1 - abs(rho)] * 4, abs=1e-12)


def test_three_methods_have_no_correlation() -> None:
    found = relation.measure(captured(["adamw", "galore", "rso"]))
    assert found["rho_energy"].isna().all()
    assert found["p_flatness"].isna().all()
    assert relation.measure(Tables()).empty
