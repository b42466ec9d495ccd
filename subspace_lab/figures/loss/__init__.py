"""Figures of the loss at the checkpoints of a run, drawn where a run was analysed with --hessian or --noise."""

from types import ModuleType

from subspace_lab.figures.loss import (
    curvature_along_gradient,
    noise_over_training,
    sharpness_over_training,
    signal_over_depth,
)
from subspace_lab.figures.loss.over_depth import CORE_OVERLAP, DOMINANT_SHARE, SHARPNESS, OverDepth

FIGURES: dict[str, ModuleType | OverDepth] = {
    "sharpness_over_training": sharpness_over_training,
    "sharpness_over_depth": SHARPNESS,
    "dominant_share": DOMINANT_SHARE,
    "curvature_along_gradient": curvature_along_gradient,
    "core_overlap": CORE_OVERLAP,
    "noise_over_training": noise_over_training,
    "signal_over_depth": signal_over_depth,
}

__all__ = ["FIGURES"]
