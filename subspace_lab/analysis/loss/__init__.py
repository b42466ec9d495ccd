"""Quantities of a loss at given weights, of any model: its Hessian, and the noise of its gradient.

Unlike the other analyses these need the model itself. `subspace_lab.landscape` takes it from the checkpoints of a run.
"""

from subspace_lab.analysis.loss.hessian import LossCurvature, hessian, loss_curvature
from subspace_lab.analysis.loss.noise import noise

__all__ = ["LossCurvature", "hessian", "loss_curvature", "noise"]
