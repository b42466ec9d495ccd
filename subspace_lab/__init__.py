"""subspace_lab: the laboratory for gradient subspaces.

Capture the per-layer gradients of a training run, measure how much of them lives in a low-dimensional subspace and
how that subspace moves, and compare every number with what noise would give::

    import subspace_lab as sl

    with sl.GradientCapture(model, "runs/mine", every=10) as capture:
        capture.attach(optimizer)
        ...  # your training loop
    run = sl.Run.open("runs/mine", write=True)
    energy = sl.analysis.energy(run)

and train in the subspaces that were measured::

    optimizer = sl.optim.GrassWalk(sl.optim.param_groups(model, rank=128), lr=1e-3)

Importing this package is cheap: torch and the rest are loaded when a name is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from subspace_lab._late import late
from subspace_lab._version import __version__

if TYPE_CHECKING:
    from subspace_lab import (
        analysis,
        capture,
        experiments,
        figures,
        numerics,
        optim,
        regularizers,
        report,
        runs,
        studies,
        training,
    )  # fmt: skip
    from subspace_lab.analysis import Plan, recommend
    from subspace_lab.capture import GradientCapture
    from subspace_lab.runs import Run, RunError
    from subspace_lab.studies import safety
    from subspace_lab.studies.optimizers import Comparison, compare
    from subspace_lab.training import TrainConfig, train

_MODULES = (
    "analysis",
    "capture",
    "experiments",
    "figures",
    "numerics",
    "optim",
    "regularizers",
    "report",
    "runs",
    "studies",
    "training",
)
_HOMES = {
    "Comparison": "studies.optimizers",
    "GradientCapture": "capture",
    "Plan": "analysis",
    "Run": "runs",
    "RunError": "runs",
    "TrainConfig": "training",
    "compare": "studies.optimizers",
    "recommend": "analysis",
    "safety": "studies",
    "train": "training",
}

__all__ = [
    "Comparison",
    "GradientCapture",
    "Plan",
    "Run",
    "RunError",
    "TrainConfig",
    "__version__",
    "analysis",
    "capture",
    "compare",
    "experiments",
    "figures",
    "numerics",
    "optim",
    "recommend",
    "regularizers",
    "report",
    "runs",
    "safety",
    "studies",
    "train",
    "training",
]


__getattr__ = late(__name__, dict.fromkeys(_MODULES, "") | _HOMES)


def __dir__() -> list[str]:
    return __all__
