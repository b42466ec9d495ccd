"""The histogram of principal angles: which rows are shown, and what is drawn of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import StepPatch

from subspace_lab.figures import NARROW, PAGE, AbsentError
from subspace_lab.studies.grass_paper.quantities.projection_angles import histogram, measure
from tests.figures.test_drawings import KINDS, axes_of, check_texts, text_boxes
from tests.studies.grass_paper.by_hand import Tables, table as table_of

EDGES = np.linspace(0, 1, 26)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rng, parts = np.random.default_rng(0), []
    for kind in KINDS:
        for lag_steps in (10, 40, 160):
            counts = rng.integers(1, 50, 25)
            parts.append(pd.DataFrame({
                "kind": kind, "m": 256, "rank": 64, "lag_steps": lag_steps, "bin_low": EDGES[:-1],
                "bin_high": EDGES[1:], "count": counts, "density": 25 * counts / counts.sum(),
                "null_density": np.linspace(2, 0, 25),
            }))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def test_angles_are_those_of_the_first_seed() -> None:
    rows = table_of("kind count cell method seed", ("q_proj", 3, "a", "adamw", 0), ("q_proj", 5, "b", "x", 1))
    found = measure(Tables(captured_angles=rows))  # type: ignore[arg-type]
    assert found.to_dict("records") == [{"kind": "q_proj", "count": 3}]


def outlines(ax: Any) -> list[StepPatch]:
    return [patch for patch in ax.patches if isinstance(patch, StepPatch)]


def test_outlines_are_the_densities_by_lag_and_the_null(table: pd.DataFrame) -> None:
    axes = axes_of(histogram.draw(table))
    assert list(axes) == KINDS
    for kind, ax in axes.items():
        *shown, null = outlines(ax)
        for lag_steps, outline in zip((10, 40, 160), shown, strict=True):
            rows = table[(table["kind"] == kind) & (table["lag_steps"] == lag_steps)]
            assert outline.get_data().values.tolist() == rows["density"].tolist()
            assert outline.get_data().edges.tolist() == pytest.approx(EDGES.tolist())
        assert null.get_data().values.tolist() == np.linspace(2, 0, 25).tolist()
        assert len({(outline.get_edgecolor(), str(outline.get_linestyle())) for outline in (*shown, null)}) == 4


def test_kinds_of_several_sizes_have_a_panel_for_each(table: pd.DataFrame) -> None:
    of_one = table[table["kind"] == "q_proj"]
    mixed = pd.concat([table[table["kind"] != "k_proj"], of_one.assign(m=128)])
    first, *_, last = axes_of(histogram.draw(mixed))
    assert (first, last) == ("q_proj, m = 256", "q_proj, m = 128")


def test_an_empty_table_is_not_drawn(table: pd.DataFrame) -> None:
    with pytest.raises(AbsentError):
        histogram.draw(table.head(0))


@pytest.mark.parametrize("layout", [PAGE, NARROW], ids=["page", "narrow"])
def test_no_text_is_cut_or_covered(table: pd.DataFrame, layout: Any) -> None:
    figure = histogram.draw(table, layout)
    check_texts(histogram.title, text_boxes(figure, layout), figure.bbox)
