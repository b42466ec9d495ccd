"""Figures of the loss at the checkpoints of a run, drawn where a run was analysed with --hessian or --noise."""

from types import ModuleType

from subspace_lab.figures.loss import (
    core_overlap,
    curvature_along_gradient,
    dominant_share,
    noise_over_training,
    sharpness_over_depth,
    sharpness_over_training,
    signal_over_depth,
)

FIGURES: dict[str, ModuleType] = {
    "sharpness_over_training": sharpness_over_training,
    "sharpness_over_depth": sharpness_over_depth,
    "dominant_share": dominant_share,
    "curvature_along_gradient": curvature_along_gradient,
    "core_overlap": core_overlap,
    "noise_over_training": noise_over_training,
    "signal_over_depth": signal_over_depth,
}

__all__ = ["FIGURES"]
