"""The optimizers: gradient subspaces put to use.

Every optimizer is a `torch.optim.Optimizer`. A group with a ``rank`` is optimized in a subspace, one without is AdamW;
`param_groups` makes both from a model. Most methods are one machine, `SubspaceAdam`, with three exchangeable parts: the
rule that refreshes the basis, what becomes of Adam's moments then, and what of the gradient outside of the subspace.
"""

from subspace_lab.optim import methods
from subspace_lab.optim.base import NonFiniteGradientError
from subspace_lab.optim.clipping import AdaptiveGroupClipper
from subspace_lab.optim.from_plan import from_plan
from subspace_lab.optim.groups import param_groups
from subspace_lab.optim.low_rank_all_reduce import LowRankAllReduce, low_rank_all_reduce
from subspace_lab.optim.memory import MemoryReport, memory_report
from subspace_lab.optim.methods import *  # noqa: F403
from subspace_lab.optim.methods import METHODS, method_named
from subspace_lab.optim.recovery_shares import recovery_shares
from subspace_lab.optim.refresh_clock import RefreshClock
from subspace_lab.optim.sharding_report import ShardingReport, sharding_report
from subspace_lab.optim.subspace_adam import SubspaceAdam

__all__ = [
    "METHODS",
    "AdaptiveGroupClipper",
    "LowRankAllReduce",
    "MemoryReport",
    "NonFiniteGradientError",
    "RefreshClock",
    "ShardingReport",
    "SubspaceAdam",
    "from_plan",
    "low_rank_all_reduce",
    "memory_report",
    "method_named",
    "param_groups",
    "recovery_shares",
    "sharding_report",
]
__all__ += methods.__all__
