"""The numbers that are logged beside the gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from subspace_lab.capture.gradients import whole_number
from subspace_lab.capture.present import shown

# What goes into a snapshot: values that a repeated run gives again, no times.
CONTEXT_KEYS = ("loss", "lr", "grad_norm", "clipped", "accumulation", "loss_scale")
_NUMBERS = ("loss", "eval_loss", "lr", "grad_norm", "loss_scale", "accumulation")
_CLIPPED = {True: "true", False: "false", "true": "true", "false": "false", "unknown": "unknown"}


def plain_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Logged values as JSON-ready ones; those that are None are left out.

    Args:
        values: Numbers, strings and booleans by name; tensors and arrays of one element count as numbers.

    Returns:
        The values as Python's own types.

    Raises:
        ValueError: If one is something else, or is named ``step``.
    """
    if "step" in values:
        raise ValueError("log(step=...): the step is counted by the capture; leave it out")
    plain = {name: _plain(name, value) for name, value in values.items() if value is not None}
    if "clipped" in plain:
        plain["clipped"] = _clipped(plain["clipped"])
    for name in _NUMBERS:
        if isinstance(value := plain.get(name, 0), str | bool):
            raise ValueError(f"log({name}=...) takes a number, got {value!r}")
    return plain


def snapshot_context(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that go into a snapshot, None where one is not known."""
    return {name: values.get(name) for name in CONTEXT_KEYS} | {"clipped": values.get("clipped", "unknown")}


def _plain(name: str, value: Any) -> float | int | str | bool:
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex():
        return whole_number(value)
    if not isinstance(value, Tensor) and getattr(value, "size", None) == 1 and hasattr(value, "item"):  # of numpy
        value = value.item()
    if not isinstance(value, float | int | str | bool):
        kind = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"log({shown([name])}=...) takes a number, a string or a boolean, got {kind}")
    return value


def _clipped(value: Any) -> str:
    if value not in _CLIPPED:
        raise ValueError(f"log(clipped=...) takes True, False or 'unknown', got {value!r}")
    return _CLIPPED[value]
