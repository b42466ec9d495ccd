"""An analysis on a cluster of dask.distributed: two processes of this machine."""

import pandas as pd
import pytest
import torch

import subspace_lab as sl
from subspace_lab.runs import RunError


@pytest.mark.slow
def test_a_cluster_gives_the_tables_of_one_process(tmp_path):
    from dask.distributed import Client, LocalCluster

    torch.manual_seed(0)
    model = torch.nn.ModuleDict({"up": torch.nn.Linear(6, 9), "down": torch.nn.Linear(9, 6)})
    with sl.GradientCapture(model, tmp_path / "run", every=1) as capture:
        for step in range(3):
            for parameter in model.parameters():
                parameter.grad = torch.randn_like(parameter)
            capture.step(step)
    expected = sl.analysis.analyze(sl.Run.open(tmp_path / "run"), ranks=(2,), rank=2)
    run = sl.Run.open(tmp_path / "run", write=True)
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "local_directory": str(tmp_path)}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        tables = sl.analysis.analyze(run, ranks=(2,), rank=2, executor=client.get_executor())
        (tmp_path / "run" / "snapshots" / "step_00000001.safetensors").write_bytes(b"")
        with pytest.raises(RunError, match="step_00000001"):
            sl.analysis.analyze(run, executor=client.get_executor())
    for name, table in expected.items():
        pd.testing.assert_frame_equal(tables[name], table, check_exact=False, rtol=1e-6, atol=1e-7)
        pd.testing.assert_frame_equal(run.table(name), table, check_exact=False, rtol=1e-6, atol=1e-7)
