"""Errors of the optimizers."""

from __future__ import annotations


class NonFiniteGradientError(ArithmeticError):
    """A gradient has NaN or Inf entries; nothing was changed. The message names the layer and the way out."""
