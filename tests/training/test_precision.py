"""The faster precision: by time, with float32 where the gain is small."""

import pytest
import torch

from subspace_lab.training import start
from subspace_lab.training.start import faster_precision


@pytest.mark.parametrize(("single", "half", "expected"), [
    (0.004, 0.001, "bfloat16"), (0.0011, 0.001, "float32"), (0.001, 0.02, "float32"),
])  # fmt: skip
def test_half_precision_must_be_clearly_faster(monkeypatch, single, half, expected):
    seconds = {torch.float32: single, torch.bfloat16: half}
    monkeypatch.setattr(start, "_seconds", lambda A: seconds[A.dtype])
    assert faster_precision(torch.device("cpu")) == expected


def test_a_product_takes_some_time():
    small, large = (start._seconds(torch.ones(size, size)) for size in (16, 1024))
    assert 0 < small < large
