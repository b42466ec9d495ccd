"""The path of the paper profile at toy size: two processes that share a training, begun by torchrun."""

from __future__ import annotations

import dataclasses

import pandas as pd
import pytest

from subspace_lab.evidence import profiles, regenerate
from subspace_lab.evidence.cells import tuning_cells
from subspace_lab.evidence.variants import methods
from subspace_lab.runs import Run
from subspace_lab.training import train


@pytest.mark.slow
def test_two_processes_train_what_one_does(small, tmp_path, monkeypatch):
    scale = dataclasses.replace(small, seeds=1, processes=2, methods=("adamw",))
    monkeypatch.setitem(profiles.PROFILES, "smoke", scale)
    page = regenerate(tmp_path / "figures", profile="smoke", only=["tables"])
    assert page.is_file()
    assert (page.parent / "tables.png").is_file()
    (row,) = pd.read_parquet(page.parent / "tables" / "cells.parquet").to_dict("records")
    assert (row["status"], row["state_bytes"]) == ("complete", row["state_bytes_formula"])
    (cell,) = tuning_cells(methods(scale), scale)
    alone = Run.open(train(tmp_path / "alone", cell.config)).metrics
    assert row["tokens"] == alone["tokens"].sum()
    assert row["eval_loss"] == pytest.approx(alone["eval_loss"].iloc[-1], rel=1e-4)
