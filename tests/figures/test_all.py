"""The files that `draw_all` leaves."""

import hashlib
import os
import subprocess
import sys

import matplotlib
import numpy as np
import pytest

from subspace_lab.figures import FIGURES, NARROW, draw_all
from subspace_lab.runs import Run, RunError
from tests.figures.synthetic import layer_row, make_run, transformer

SMALL = {"layers": transformer(2, {"q_proj": (64, 64)}), "steps": (0, 10, 20)}


def digests(run):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (run.path / "figures").iterdir()}


def test_every_figure_is_left_as_png_and_pdf_and_a_rerun_gives_the_same_bytes(tmp_path):
    run = make_run(tmp_path / "run", **SMALL)
    paths = draw_all(run)
    names = [f"{name}.{suffix}" for name in FIGURES if name != "depth_overlap" for suffix in ("png", "pdf")]
    assert [path.name for path in paths] == names
    first = digests(run)
    assert sorted(first) == sorted(names)
    code = "import sys; from subspace_lab.figures import draw_all; from subspace_lab.runs import Run; "
    code += "draw_all(Run.open(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, run.path], check=True, env={**os.environ, "PYTHONHASHSEED": "7"})
    assert digests(run) == first


def test_a_figure_that_can_no_longer_be_drawn_is_removed(tmp_path):
    run = make_run(tmp_path / "run", layers=[layer_row("w", -1, "w", (8, 8))], steps=(0,))
    stale = run.path / "figures" / "angle_drift.png"
    stale.parent.mkdir()
    stale.write_bytes(b"of an earlier analysis")
    drawn = {path.stem for path in draw_all(run)}
    assert drawn == {"energy_over_training", "energy_by_rank", "spectrum", "loss"}
    assert not stale.exists()


def test_a_directory_that_cannot_be_written_is_one_line(tmp_path):
    run = make_run(tmp_path / "run", layers=[layer_row("w", -1, "w", (8, 8))], steps=(0,))
    (run.path / "figures").write_text("a file where the directory should be")
    with pytest.raises(RunError, match=r"cannot write .*figures"):
        draw_all(run)


def test_values_that_are_not_numbers_are_left_out_of_means(tmp_path):
    run = make_run(tmp_path / "run", **SMALL)
    writable = Run.open(run.path, write=True)
    changed = {"energy": ["ratio", "fraction"], "spectrum": ["singular_value"], "angles": ["overlap"],
               "curvature": ["normalized"], "spectrum_summary": ["frobenius_norm", "stable_rank"]}  # fmt: skip
    for name, columns in changed.items():
        table = run.table(name)
        table.loc[(table["step"] == 20) & (table["depth"] == 0), columns] = np.nan
        writable.write_table(name, table)
    figure = FIGURES["energy_over_training"].draw(run)
    energy = run.table("energy").query("basis == 'own' and rank == 16 and kind == 'q_proj' and depth == 1")
    line = figure.axes[0].lines[0]
    assert line.get_ydata()[2] == pytest.approx(float(energy.query("step == 20")["ratio"].iloc[0]))
    for name, module in FIGURES.items():
        if name != "depth_overlap":
            module.draw(run)


def test_a_run_of_nothing_but_nan_draws_only_its_loss(tmp_path):
    run = make_run(tmp_path / "run", **SMALL)
    writable = Run.open(run.path, write=True)
    for name in ("energy", "spectrum", "spectrum_summary", "angles", "curvature"):
        table = run.table(name)
        values = [column for column in table if table[column].dtype == np.float32]
        writable.write_table(name, table.assign(**dict.fromkeys(values, np.float32("nan"))))
    assert {path.stem for path in draw_all(run)} == {"loss"}


def test_drawing_leaves_the_settings_of_matplotlib_alone(cases):
    before = dict(matplotlib.rcParams)
    FIGURES["loss"].draw(cases("one kind"), NARROW)
    assert dict(matplotlib.rcParams) == before


def test_every_figure_says_what_it_shows_how_to_read_it_and_when_it_misleads():
    for module in FIGURES.values():
        sentences = module.CAPTION.count(". ") + 1
        assert 2 <= sentences <= 4, module.TITLE
        assert "mislead" in module.CAPTION or module.TITLE == "Loss", module.TITLE
