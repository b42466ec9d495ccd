"""The checkpoints of a run are restored with the text that it was trained on, or refused in a line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import subspace_lab as sl
from subspace_lab.training import RestoredCheckpoints
from subspace_lab.training.checkpoint import checkpoint_steps
from subspace_lab.training.evaluation import EvaluationSet
from subspace_lab.training.sequences import Sequences
from subspace_lab.training.tokens import load_tokens
from tests.runs_by_hand import write_run
from tests.training.tiny import run_with_checkpoints


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Trained once; its text stays where it was."""
    with run_with_checkpoints(tmp_path_factory.mktemp("restored")) as path:
        yield path


@pytest.fixture
def run_dir(trained: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_checkpoints_are_kept(trained):
    assert checkpoint_steps(trained) == [4, 8, 12]


def test_the_manifest_names_the_sequences(trained):
    run = sl.Run.open(trained)
    config = sl.training.stored_config(trained)
    tokens = Sequences(load_tokens(config).tokens, config.sequence_length, hold_out=True).held_out(32)
    named = run.manifest["evaluation"]
    assert {name: named[name] for name in ("sequences", "tokens", "held_out")} == {
        "sequences": 32, "tokens": 16, "held_out": True,
    }  # fmt: skip
    assert torch.equal(RestoredCheckpoints.of(run).task.probe(32)["input_ids"], tokens)
    assert RestoredCheckpoints.of(run).task.facts() == named


def edited(run_dir: Path, **changes) -> sl.Run:
    path = run_dir / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return sl.Run.open(run_dir, write=True)


def test_runs_without_that_field_are_measured_too(run_dir):
    assert RestoredCheckpoints.of(edited(run_dir, evaluation=None)).task.facts()["sequences"] == 32


def test_faults(run_dir, tmp_path):
    with pytest.raises(sl.RunError, match="trained on other data"):
        RestoredCheckpoints.of(edited(run_dir, data_hash="0" * 64))
    run = edited(run_dir, data_hash=sl.Run.open(run_dir).manifest["data_hash"], evaluation={"sequences": 1})
    with pytest.raises(sl.RunError, match=r"(other data|other evaluation sequences)"):
        RestoredCheckpoints.of(run)
    shutil.rmtree(run_dir / "checkpoints")
    with pytest.raises(sl.RunError, match=r"has no checkpoints; train with: .* --keep-checkpoints 5"):
        RestoredCheckpoints.of(sl.Run.open(run_dir))
    with pytest.raises(sl.RunError, match=r"has no checkpoints; resume it: subspace-lab train .* --resume"):
        RestoredCheckpoints.of(edited(run_dir, finished=False))
    captured = write_run(tmp_path / "captured", lambda step: {"a.weight": torch.ones(4, 4)})
    with pytest.raises(sl.RunError, match="was not begun by subspace-lab train, so that it has no checkpoints"):
        RestoredCheckpoints.of(captured)
    with pytest.raises(TypeError, match="a run is needed"):
        RestoredCheckpoints.of(str(run_dir))


def test_a_torn_checkpoint_is_named(run_dir):
    path = run_dir / "checkpoints" / "step_00000008.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(sl.RunError, match="step_00000008"):
        list(RestoredCheckpoints.of(sl.Run.open(run_dir)).models())


def test_evaluation_set_without_held_out_text():
    sequences = Sequences(np.arange(70 * 4, dtype=np.uint16), 4, hold_out=False)
    found = EvaluationSet.of(sequences)
    assert found.tokens.shape == (32, 4)
    assert not found.facts()["held_out"]
    assert found.tokens[:2, 0].tolist() == [0, 8]  # every 70/32th
    assert found.first(4)[:, 0].tolist() == found.tokens[::8, 0].tolist()
    few = EvaluationSet.of(Sequences(np.arange(7 * 4, dtype=np.uint16), 4, hold_out=False))
    assert len(few.tokens) == 6
