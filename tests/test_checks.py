"""The checks of arguments that the whole package shares."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from subspace_lab._checks import check_choice, check_module, is_decay_rates, is_number, positive_number, whole_number
from subspace_lab.training import TrainConfig


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.array(3), torch.tensor(3)])
def test_integers_of_all_kinds_become_pythons(value):
    assert whole_number("k", value) == 3
    assert type(whole_number("k", value)) is int


@pytest.mark.parametrize("value", [True, np.bool_(True), 3.0, np.float64(3), "3", None, 0, -1, [3], torch.tensor(3.5)])
def test_what_is_not_an_integer_of_at_least_one_is_refused(value):
    with pytest.raises(ValueError, match=r"^k must be a whole number of at least 1, got"):
        whole_number("k", value)


def test_limits_and_other_choices_are_in_the_message():
    assert whole_number("a step", 0, 0, 10) == 0
    assert whole_number("a step", 9, 0, 10) == 9
    for wrong in (10, -1):
        with pytest.raises(ValueError, match=rf"^a step must be .* of at least 0 and below 10, got {wrong}$"):
            whole_number("a step", wrong, 0, 10)
    with pytest.raises(ValueError, match=r"^every must be a whole number of at least 1, or None, got 0$"):
        whole_number("every", 0, otherwise=", or None")


def test_numbers_are_finite_and_not_truth_values():
    assert all(map(is_number, (0, -1.5, 10**400, np.float32(1), np.int8(1))))
    assert not any(map(is_number, (True, np.bool_(True), math.nan, math.inf, "1", None, 1j)))
    assert [type(positive_number("lr", value)) for value in (1, 0.5, np.float32(0.5), np.int64(1))] == [
        int, float, float, int,
    ]  # fmt: skip
    for wrong in (0, -1.0, math.nan, math.inf, True, "1"):
        with pytest.raises(ValueError, match=r"^lr must be a positive number, got"):
            positive_number("lr", wrong)
    assert is_decay_rates((0, 0.999))
    assert not any(map(is_decay_rates, ((0.9,), (0.9, 1.0), (-0.1, 0.9), 0.9, None, ("a", "b"))))


def test_choices_are_compared_as_texts():
    for sound in ("left", None):
        check_choice("side", sound, ("left", "right", None))
    for wrong in ("top", None, 1, ["left"], np.array(["left", "right"])):
        with pytest.raises(ValueError, match=r"^side must be one of 'left', 'right', got"):
            check_choice("side", wrong, ("left", "right"))


def test_a_model_is_a_module():
    check_module(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match=r"^model must be a torch.nn.Module, got list$"):
        check_module([])


def test_settings_of_a_training_may_be_numpys():
    config = TrainConfig(
        steps=np.int64(8), lr=np.float32(0.5), weight_decay=np.float64(0.25), betas=(np.float32(0.5), 0)
    )
    assert config == TrainConfig(steps=8, lr=0.5, weight_decay=0.25, betas=(0.5, 0))
    chosen = TrainConfig(optimizer_options={"walk-step": np.float32(0.5)}).optimizer_options
    assert chosen == {"walk_step": 0.5}
    assert type(chosen["walk_step"]) is float
    numbers = (config.steps, config.lr, config.weight_decay, *config.betas)
    assert [type(value) for value in numbers] == [int, float, float, float, int]
