"""The learning rate against the scheduler of transformers."""

import pytest
import torch

from subspace_lab.training import TrainConfig
from subspace_lab.training.schedule import Cosine


@pytest.mark.parametrize(("warmup", "steps"), [(0, 10), (3, 10), (10, 10), (100, 1000)])
def test_the_cosine_is_that_of_transformers(warmup, steps):
    from transformers import get_cosine_with_min_lr_schedule_with_warmup

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    theirs = get_cosine_with_min_lr_schedule_with_warmup(optimizer, warmup, steps, min_lr_rate=0.1)
    ours = Cosine.of(TrainConfig(lr=0.3, warmup=warmup, steps=steps).resolved())
    for step in range(steps):
        if step >= warmup:
            assert ours.at(step) == pytest.approx(theirs.get_last_lr()[0], rel=1e-12)
        optimizer.step()
        theirs.step()


def test_the_warm_up_is_linear_and_ends_at_the_peak():
    cosine = Cosine(peak=1.0, floor=0.1, warmup=4, steps=10)
    assert [cosine.at(step) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
