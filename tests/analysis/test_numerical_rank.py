"""Bases of more directions than a gradient determines are marked, and said."""

from __future__ import annotations

import warnings

import pytest
import torch

import subspace_lab as sl
from subspace_lab.analysis.energy import undetermined
from tests.runs_by_hand import write_run


def of_rank(rank, shape=(24, 40)):
    """Gradients of a rank, another one at each step."""

    def make(step):
        draw = torch.Generator().manual_seed(step)
        left, right = (torch.randn(size, rank, generator=draw) for size in shape)
        return {"a.weight": left @ right.T}

    return make


@pytest.mark.parametrize("keep", ["full", "gram"])
@pytest.mark.parametrize("rank", [1, 3, 24])
def test_the_column_is_the_rank_of_the_gradient_that_the_basis_is_from(tmp_path, rank, keep):
    run = write_run(tmp_path / "run", of_rank(rank), keep=keep)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sl.analysis.AnalysisNotice)
        table = sl.analysis.energy(run, ranks=(2, 8), lags=1)
    assert (table["numerical_rank"] == rank).all()


def test_a_notice_says_how_many_stale_energies_count_arbitrary_directions(tmp_path):
    run = write_run(tmp_path / "run", of_rank(3))
    with pytest.warns(sl.analysis.AnalysisNotice, match=r"\(3 of 8 in a.weight\): the others are arbitrary"):
        table = sl.analysis.energy(run, ranks=(2, 8), lags=1)
    stale = table[table["basis"] == "stale"]
    assert f"of {len(stale)} stale energies {len(stale) // 2}, in 1 layer," in undetermined(table)


def test_nothing_is_said_where_bases_are_determined_or_it_is_not_known(tmp_path):
    run = write_run(tmp_path / "run", of_rank(3))
    with warnings.catch_warnings():
        warnings.simplefilter("error", sl.analysis.AnalysisNotice)
        table = sl.analysis.energy(run, ranks=(2, 3), lags=1)
        sl.analysis.energy(run, ranks=24, lags=1)  # all of the space, whatever the directions
        sl.analysis.energy(run, ranks=8, lags=())  # own energies count nothing that is arbitrary
    assert undetermined(table.drop(columns="numerical_rank").assign(rank=8)) is None  # a table of an earlier release
