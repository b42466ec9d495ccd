"""Pure functions from a run, or a loss, to tidy tables, one file per quantity, and what the tables say."""

from subspace_lab.analysis import everything
from subspace_lab.analysis.everything import *  # noqa: F403
from subspace_lab.analysis.findings import Finding, findings
from subspace_lab.analysis.loss import LossCurvature, hessian, hessian_of_run, loss_curvature, noise, noise_of_run
from subspace_lab.analysis.notices import AnalysisNotice, notices
from subspace_lab.analysis.plan import LayerPlan, Plan
from subspace_lab.analysis.ranks import reference_rank
from subspace_lab.analysis.recommend import recommend

__all__ = [
    "AnalysisNotice",
    "Finding",
    "LayerPlan",
    "LossCurvature",
    "Plan",
    "findings",
    "hessian",
    "hessian_of_run",
    "loss_curvature",
    "noise",
    "noise_of_run",
    "notices",
    "recommend",
    "reference_rank",
]
__all__ += everything.__all__
