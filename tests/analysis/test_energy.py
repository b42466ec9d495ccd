"""Energy tables against float64 SVDs, closed forms and simulated noise."""

import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import torch

from subspace_lab import analysis
from subspace_lab.runs import RunError
from tests.runs_by_hand import noise, write_run

SHAPES = {
    "blocks.0.q_proj.weight": (16, 16),
    "blocks.0.up_proj.weight": (40, 16),
    "blocks.1.q_proj.weight": (16, 16),
    "blocks.1.up_proj.weight": (40, 16),
    "conv.weight": (12, 3, 2, 2),
}
COLUMNS = [
    "step", "layer", "depth", "kind", "basis", "basis_step", "lag_steps", "rank", "m", "n", "ratio", "fraction",
    "null_isotropic", "null_noise", "numerical_rank",
]  # fmt: skip


def oriented(gradient: torch.Tensor) -> np.ndarray:
    G = gradient.flatten(1).double().numpy()
    return G if G.shape[0] <= G.shape[1] else G.T


@pytest.mark.parametrize("keep", ["full", "gram"])
def test_every_row_equals_the_definition(tmp_path, keep):
    gradients = noise(SHAPES)
    run = write_run(tmp_path / "run", gradients, keep=keep)
    table = analysis.energy(run, ranks=(1, 4, 14), lags=(1, 2))
    assert list(table.columns) == COLUMNS
    assert len(table) == 5 * 3 * (6 + 5 + 4)
    for row in table.itertuples():
        G = oriented(gradients(row.step)[row.layer])
        S = np.linalg.svd(oriented(gradients(row.basis_step)[row.layer]))[0][:, : row.rank]
        expected = np.linalg.norm(S.T @ G) / np.linalg.norm(G)
        assert row.ratio == pytest.approx(expected, abs=1e-5)
        assert row.fraction == pytest.approx(expected**2, abs=1e-5)
        assert (row.m, row.n) == G.shape
        assert row.null_isotropic == pytest.approx(min(1, row.rank / row.m))
        assert row.lag_steps == row.step - row.basis_step
        assert row.basis == ("own" if row.lag_steps == 0 else "stale")


def test_reductions_agree(tmp_path):
    gradients = noise(SHAPES)
    tables = {
        keep: analysis.energy(write_run(tmp_path / keep[:4], gradients, keep=keep), ranks=(1, 4, 8)).query(
            "basis=='own'"
        )
        for keep in ("full", "gram")
    }
    for keep in ("topk:4", "stats"):
        with pytest.warns(analysis.AnalysisNotice, match="rows are absent"):
            table = analysis.energy(write_run(tmp_path / keep[:4], gradients, keep=keep), ranks=(1, 4, 8))
        assert set(table["basis"]) == {"own"}, "stale energies are absent, never approximated"
        tables[keep] = table
    for table in tables.values():
        pd.testing.assert_frame_equal(
            table.reset_index(drop=True), tables["full"].reset_index(drop=True), atol=1e-5, check_exact=False
        )


def test_noise_lands_on_its_nulls(tmp_path):
    shapes = {f"blocks.{i}.w.weight": (32, 96) for i in range(8)}
    run = write_run(tmp_path / "run", noise(shapes, seed=3), steps=10)
    table = analysis.energy(run, ranks=(8,), lags=(1, 3))
    for basis, null in (("own", "null_noise"), ("stale", "null_isotropic")):
        rows = table[table["basis"] == basis]
        excess = rows["fraction"] - rows[null]
        assert abs(excess.mean()) < 4 * excess.std() / np.sqrt(len(rows)), basis


def test_a_planted_subspace_is_found_and_kept(tmp_path):
    basis = torch.linalg.qr(torch.randn(20, 3)).Q

    def gradients(step: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(step)
        return {"blocks.0.w.weight": basis @ torch.randn(3, 50, generator=generator)}

    table = analysis.energy(write_run(tmp_path / "run", gradients), ranks=(3,))
    np.testing.assert_allclose(table["fraction"], 1, atol=1e-5)


def test_the_table_is_written_and_names_are_categories(tmp_path):
    run = write_run(tmp_path / "run", noise(SHAPES))
    table = analysis.energy(run)
    for name in ("layer", "kind", "basis"):
        assert isinstance(table[name].dtype, pd.CategoricalDtype)
    assert table["ratio"].dtype == np.float32
    pd.testing.assert_frame_equal(run.table("energy"), table)
    assert set(table["rank"]) == {1, 2, 4, 8}, "m/16 to m/2 of the median m = 16"


@pytest.mark.parametrize("pool", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_an_executor_gives_the_same_table(tmp_path, pool):
    run = write_run(tmp_path / "run", noise(SHAPES))
    with pool(2) as executor:
        pd.testing.assert_frame_equal(analysis.energy(run, executor=executor), analysis.energy(run))


def test_processes_forked_beside_threads_of_torch_finish(tmp_path):
    """OpenMP's threads do not survive a fork: a child that waited for them would hang forever."""
    run = write_run(tmp_path / "run", noise({"up_proj.weight": (512, 512)}), steps=2)
    code = f"""
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
import torch, subspace_lab as sl
torch.ones(4096, 512).tril()  # starts the threads
with ProcessPoolExecutor(2, get_context("fork")) as executor:
    print(len(sl.analysis.energy(sl.Run.open({str(run.path)!r}), executor=executor)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.strip() == str(len(analysis.energy(run))), done.stderr


def test_a_gradient_that_is_not_finite_is_left_out_with_a_notice(tmp_path):
    clean = noise(SHAPES)

    def gradients(step: int) -> dict[str, torch.Tensor]:
        found = clean(step)
        if step == 20:
            found["conv.weight"][0, 0, 0, 0] = torch.nan
        return found

    run = write_run(tmp_path / "run", gradients)
    with pytest.warns(analysis.AnalysisNotice, match=r"1 gradient with NaN or Inf.*conv\.weight \(1 step\)"):
        table = analysis.energy(run, ranks=(2,), lags=(1,))
    conv = table[table["layer"] == "conv.weight"]
    assert 20 not in set(conv["step"])
    assert set(conv[conv["basis"] == "stale"]["step"]) == {10, 40, 50}, "no stale basis comes from a missing capture"
    with pytest.raises(RunError, match="1 non-finite"):
        run.gram(20, "conv.weight")


def test_a_gradient_of_zeros_has_no_energy_to_share(tmp_path):
    run = write_run(tmp_path / "run", lambda step: {"a.w.weight": torch.full((4, 6), float(step > 0))}, steps=2)
    table = analysis.energy(run, ranks=(1,), lags=(1,))
    assert table["fraction"].isna().tolist() == [True, False], "nor has it a basis that could be stale"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ranks": (0,)}, "rank must be a whole number of at least 1, got 0"),
        ({"ranks": (-3,)}, "rank must be a whole number of at least 1, got -3"),
        ({"ranks": (2.5,)}, r"rank must be a whole number of at least 1, got 2\.5"),
        ({"ranks": ()}, "ranks is empty"),
        ({"ranks": (17,)}, "rank 17 is larger than every layer.*m = 16"),
        ({"lags": (0,)}, "lag must be a whole number of at least 1"),
    ],
)
def test_bad_arguments_are_one_line(tmp_path, arguments, message):
    run = write_run(tmp_path / "run", noise(SHAPES), steps=1)
    with pytest.raises(ValueError, match=message) as caught:
        analysis.energy(run, **arguments)
    assert "\n" not in str(caught.value)


def test_a_run_without_snapshots_says_so(tmp_path):
    run = write_run(tmp_path / "run", noise(SHAPES), steps=0)
    with pytest.raises(RunError, match="no snapshots yet"):
        analysis.energy(run)
