"""What people pass: one number for many, a path for a run."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import subspace_lab as sl
from subspace_lab import analysis, figures, report
from tests.runs_by_hand import noise, write_run

SHAPES = {"blocks.0.w.weight": (8, 20), "blocks.1.w.weight": (8, 20)}
TAKE_A_RUN = (
    analysis.analyze, analysis.angles, analysis.curvature, analysis.energy, analysis.findings, analysis.notices,
    analysis.recommend, analysis.reference_rank, analysis.spectrum, analysis.spectrum_null, analysis.spectrum_summary,
    figures.draw_all, report.write_report,
)  # fmt: skip


@pytest.mark.parametrize("function", TAKE_A_RUN, ids=lambda function: function.__name__)
@pytest.mark.parametrize("given", ["runs/my run", Path("runs/my run"), None])
def test_what_is_no_run_is_refused_in_one_line_that_says_how_to_open_one(function, given):
    with pytest.raises(TypeError, match=r"^a run is needed, got ") as caught:
        function(given)
    line = str(caught.value)
    assert line.isprintable()
    assert line.endswith("Run.open(path)" if given is None else "Run.open('runs/my run')")


def test_a_single_number_stands_for_a_list_of_one(tmp_path):
    run = write_run(tmp_path / "run", noise(SHAPES), steps=4)
    pd.testing.assert_frame_equal(analysis.energy(run, ranks=3, lags=2), analysis.energy(run, ranks=(3,), lags=(2,)))
    pd.testing.assert_frame_equal(analysis.energy(run, ranks=np.int64(3)), analysis.energy(run, ranks=[3]))
    pd.testing.assert_frame_equal(analysis.curvature(run, lags=2), analysis.curvature(run, lags=[2]))
    for name, table in analysis.analyze(run, ranks=3, lags=2).items():
        pd.testing.assert_frame_equal(table, analysis.analyze(run, ranks=(3,), lags=(2,))[name])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ranks": 0}, "rank must be a whole number of at least 1, got 0"),
        ({"ranks": 2.0}, "rank must be a whole number of at least 1, got 2.0"),
        ({"ranks": "4"}, "rank must be a whole number of at least 1, got '4'"),
        ({"lags": 1.5}, "lag must be a whole number of at least 1, got 1.5"),
        ({"lags": None}, "lag must be a whole number of at least 1, got None"),
    ],
)
def test_a_single_wrong_one_is_refused_like_a_wrong_one_of_many(tmp_path, arguments, message):
    run = write_run(tmp_path / "run", noise(SHAPES), steps=2)
    with pytest.raises(ValueError, match=message):
        analysis.energy(run, **arguments)


def test_a_number_is_no_executor(tmp_path):
    run = write_run(tmp_path / "run", noise(SHAPES), steps=2)
    with pytest.raises(TypeError, match=r"executor must be one of concurrent\.futures.*got 4"):
        analysis.spectrum(run, executor=4)
    with ThreadPoolExecutor(2) as executor:
        assert len(analysis.spectrum(run, executor=executor)) == 2 * 2 * 8


def test_tables_that_were_not_kept_say_how_to_keep_them(tmp_path):
    path = write_run(tmp_path / "a run", noise(SHAPES), steps=2).path
    run = sl.Run.open(path)
    analysis.analyze(run)
    with pytest.raises(sl.RunError, match=r"run: subspace-lab analyze '.*/a run', or open it with write=True"):
        analysis.findings(run)
