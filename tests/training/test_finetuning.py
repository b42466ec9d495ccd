"""A real pretrained model is fine-tuned: what is held out is predicted better, and frozen weights keep their bits."""

from __future__ import annotations

import errno
import json
import mimetypes
import os
import random
from http import HTTPStatus

import pytest
import torch

from subspace_lab.training import TrainConfig, train
from subspace_lab.training.models import build_model

pytestmark = pytest.mark.slow
SETTINGS = {"batch_size": 2, "sequence_length": 128, "steps": 5, "eval_every": 4, "eval_batches": 2, "warmup": 1,
            "every": None, "threads": 1, "precision": "float32"}  # fmt: skip


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    """Facts of the standard library, one a line, in an order of their own."""
    types = mimetypes.MimeTypes().types_map[1]
    lines = [f"Files that end in {ending} have the MIME type {name}." for ending, name in sorted(types.items())]
    lines += [f"The HTTP status {status.value} means {status.phrase}." for status in HTTPStatus]
    lines += [f"The error {name} means: {os.strerror(code)}." for code, name in sorted(errno.errorcode.items())]
    random.Random(0).shuffle(lines)
    path = tmp_path_factory.mktemp("facts") / "facts.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def held_out(run, metric="eval_loss"):
    lines = (json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [line[metric] for line in lines if metric in line]


def test_a_low_rank_optimizer_lowers_the_held_out_loss(tmp_path, facts, smollm2_directory):
    settings = {**SETTINGS, "data": str(facts), "sequence_length": 64, "optimizer": "grasswalk", "rank": 16, "lr": 1e-4}
    run = train(tmp_path / "run", TrainConfig(model=str(smollm2_directory), **settings))
    before, after = held_out(run)
    assert after < 0.95 * before


def test_adapters_learn_a_task_and_leave_every_bit_of_the_model(tmp_path, smollm2_directory):
    """Reviews with the model's chat template: no reply is a label before, and every one is after some steps."""
    settings = {**SETTINGS, "task": "sentiment", "batch_size": 4, "adapter": "lora", "lr": 1e-3}
    config = TrainConfig(model=str(smollm2_directory), **settings).resolved()
    model = build_model(config)
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    assert sum(p.numel() for p in frozen.values()) == 134_515_008
    run = train(tmp_path / "run", config, model=model)
    before, after = held_out(run)
    assert after < 0.5 * before
    before, after = held_out(run, "eval_unparsed")
    assert after < before
    assert all(torch.equal(model.get_parameter(name), p) for name, p in frozen.items())
