"""Saved states: what is sound, and a parameter's state as its optimizer keeps it."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from subspace_lab._checks import is_number
from subspace_lab.optim.options import plain
from subspace_lab.optim.shards import as_distributed, refuse_elsewhere
from subspace_lab.optim.whole import Whole, is_distributed, local

Kept = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
COUNTS = ("step", "refreshes")
_NEVER_NEGATIVE = ("exp_avg_sq", "basis_exp_avg_sq", "recovery_norm", "indices")


def check_saved(state: Mapping[str, Any], expected: Kept, name: str, p: Tensor) -> None:
    """Refuse the state of another parameter, or one that would make weights NaN.

    Args:
        state: Saved state of a parameter.
        expected: Shapes and dtypes of what is kept for it.
        name: The parameter's.
        p: The parameter.

    Raises:
        ValueError: One line: what is expected and what there is.
    """
    shape = tuple(p.shape)
    for key in ("step", *expected):
        if key not in state or (key not in COUNTS and not isinstance(state[key], Tensor)):
            got = "none" if key not in state else f"{type(state[key]).__name__}"
            raise ValueError(f"{name}: the state has {key} of {got}, expected shape {_shape(expected, key)}; {_SAME}")
        got_shape = tuple(getattr(state[key], "shape", ()))
        if got_shape != _shape(expected, key) and not (key in COUNTS and math.prod(got_shape) == 1):
            raise ValueError(
                f"{name}: the state has {key} of shape {got_shape}, expected shape {_shape(expected, key)} for a "
                f"parameter of shape {shape}; {_SAME}"
            )
    for key in COUNTS:
        if key in state and not is_count(state[key]):
            raise ValueError(
                f"{name}: the state has {key}={_said(state[key])}, expected a whole number of at least 0; {_EARLIER}"
            )
    for key in expected:
        if key not in COUNTS:
            try:
                refuse_elsewhere(p, key, state[key])
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        bad = 0 if key in COUNTS else int((~local(state[key]).isfinite()).sum())
        if bad:
            raise ValueError(f"{name}: the state has {bad} NaN or Inf entries in {key}; {_EARLIER}")
        if key in _NEVER_NEGATIVE and not state[key].is_complex() and bool((local(state[key]) < 0).any()):
            raise ValueError(f"{name}: the state has negative entries in {key}, which cannot be; {_EARLIER}")


def as_kept(state: Mapping[str, Any], expected: Kept, p: Tensor, lies: Whole | None) -> dict[str, Any]:
    """A copy of a saved state, in the dtypes that the optimizer keeps it in and on the parameter's device.

    torch would cast everything to the parameter's dtype, which rounds float32 state and indices.

    Args:
        state: A sound one.
        expected: Shapes and dtypes of what is kept for the parameter; counts that are not among it are integers.
        p: The parameter.
        lies: How its matrices lie; None where the state lies as the parameter does.

    Returns:
        The state.
    """
    kept: dict[str, Any] = {}
    for key, value in state.items():
        if key in expected:
            shape, dtype = expected[key]
            if key not in COUNTS and is_distributed(p):
                kept[key] = as_distributed(p, key, value.detach().to(p.device, dtype), lies)
                continue
            kept[key] = torch.as_tensor(value).detach().to(p.device, dtype, copy=True)
            if key in COUNTS:
                kept[key] = kept[key].reshape(shape)
        elif key in COUNTS:
            kept[key] = int(value)
        else:
            kept[key] = value.detach().clone().to(p.device) if isinstance(value, Tensor) else copy.deepcopy(value)
    return kept


_SAME = "load it into the same model"
_EARLIER = "load an earlier state"


def _shape(expected: Kept, key: str) -> tuple[int, ...]:
    return expected[key][0] if key in expected else ()


def _said(count: Any) -> Any:
    return plain(count)


def is_count(value: Any) -> bool:
    """Whether a value, or the one number of a tensor or an array, is a whole number of at least 0."""
    number = _said(value)
    return is_number(number) and number >= 0 and number == int(number)
