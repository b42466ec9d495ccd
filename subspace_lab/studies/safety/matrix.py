"""What defenses do to a matrix, as functions of tensors."""

from __future__ import annotations
