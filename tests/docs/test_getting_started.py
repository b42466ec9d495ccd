"""The first pages that a newcomer reads: every block runs, in order, in an empty directory."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

import subspace_lab as sl
from tests.docs.pages import ROOT, blocks, run_page


@pytest.mark.slow
def test_getting_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    names = run_page(ROOT / "docs" / "getting-started.md")
    output = capsys.readouterr().out

    gradient = names["model"].blocks[1].up_proj.weight.grad
    assert gradient.shape == (128, 64)
    energy: pd.DataFrame = names["energy"]
    assert set(energy["rank"]) == {4, 16, 32}
    assert "true 2\n" in output  # as the page says
    for run_dir in ("runs/mine", "runs/small"):
        assert (tmp_path / run_dir / "report.html").stat().st_size > 10_000
    assert (tmp_path / "runs/small/plan.json").is_file()
    assert sl.Run.open("runs/small").steps == [0, 2, 4, 6, 8, 10]
    assert "6 snapshots, all of them sound" in output


def test_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code of the first screen, with a model and data given to it, captures the gradients that training uses."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16, bias=False), torch.nn.Linear(16, 4, bias=False))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    batches = [torch.randn(32, 8) for _ in range(25)]
    names = run_page(
        ROOT / "README.md",
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        batches=batches,
        loss_of=lambda model, batch: model(batch).square().mean(),
    )
    hidden = batches[0] @ before[0].T
    outer = 2 / (32 * 4) * hidden @ before[1].T  # (32, 4), the derivative of the loss by the outputs
    expected = outer.T @ hidden  # (4, 16)
    C = names["run"].gram(0, "1.weight")
    torch.testing.assert_close(C, expected @ expected.T, rtol=1e-4, atol=1e-9)
    assert {"fraction", "null_noise"} <= set(names["energy"].columns)
    optimizer = names["optimizer"]
    optimizer.step()
    assert type(optimizer) is sl.optim.GrassWalk
    ranks = {name: optimizer.state[p]["basis"].shape for name, p in model.named_parameters()}
    assert ranks == {"0.weight": (8, 8), "1.weight": (4, 4)}


def test_there_is_code_to_run() -> None:
    assert sum(language == "python" for _, language, _ in blocks(ROOT / "docs" / "getting-started.md")) >= 10
    assert sum(language == "python" for _, language, _ in blocks(ROOT / "README.md")) == 2
