"""An analysis as jobs of Slurm, by the stand-in of submitit that begins processes of this machine."""

import functools

import pandas as pd
import pytest
import torch

import subspace_lab as sl
from subspace_lab.cli.steps import measure
from subspace_lab.experiments.executors import futures
from subspace_lab.runs import RunError


@pytest.fixture
def run(tmp_path):
    """Two blocks of two layers, three snapshots."""
    torch.manual_seed(0)
    blocks = [torch.nn.ModuleDict({"up": torch.nn.Linear(6, 9), "down": torch.nn.Linear(9, 6)}) for _ in range(2)]
    model = torch.nn.ModuleDict({"blocks": torch.nn.ModuleList(blocks)})
    with sl.GradientCapture(model, tmp_path / "run", every=1, layers="*.weight") as capture:
        for step in range(3):
            for parameter in model.parameters():
                parameter.grad = torch.randn_like(parameter)
            capture.step(step)
    return sl.Run.open(tmp_path / "run", write=True)


def test_without_slurm_one_line_says_so(run, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"^there is no Slurm here .* leave out --executor slurm"):
        measure(run, executor="slurm")
    with pytest.raises(ValueError, match="options of Slurm have no effect on executor='local'"):
        measure(run, slurm={"partition": "cpu"})


@pytest.mark.slow
def test_jobs_give_the_tables_of_one_process(run, monkeypatch):
    expected = sl.analysis.analyze(sl.Run.open(run.path), ranks=(2,), rank=2)
    monkeypatch.setattr(futures, "SlurmFutures", functools.partial(futures.SlurmFutures, cluster="local"))
    monkeypatch.setattr(futures, "_PATIENCE_S", 0.2)
    measure(run, executor="slurm", workers=1, ranks=(2,), rank=2)
    for name, table in expected.items():
        pd.testing.assert_frame_equal(run.table(name), table, check_exact=False, rtol=1e-6, atol=1e-7)
    assert not [*(run.path / "slurm").rglob("*.pkl")], "nothing in a run can execute code"
    assert any((run.path / "slurm").rglob("*.out")), "logs are kept"
    path = run.path / "snapshots" / "step_00000001.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RunError), futures.SlurmFutures(run.path / "slurm") as jobs:
        jobs.submit(_read, run).result(timeout=120)
    assert not [*(run.path / "slurm").rglob("*.pkl")], "of a call that failed, too"


def _read(run):
    with run.snapshot(1) as snapshot:
        snapshot.verify()
