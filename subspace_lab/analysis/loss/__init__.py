"""Quantities of a loss at given weights, of any model: its Hessian, and the noise of its gradient.

Unlike the other analyses these need the model itself; `of_run` measures them at the checkpoints of a run.
"""

from subspace_lab.analysis.loss.hessian import LossCurvature, hessian, loss_curvature
from subspace_lab.analysis.loss.noise import noise
from subspace_lab.analysis.loss.of_run import hessian_of_run, noise_of_run

__all__ = ["LossCurvature", "hessian", "hessian_of_run", "loss_curvature", "noise", "noise_of_run"]
