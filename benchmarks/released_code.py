"""By how much released code departs from the paper that it belongs to, as the paper is followed here, row by row."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks._departures import (
    BEFORE,
    INTERVAL,
    RANK,
    STEPS,
    apollo,
    badam,
    fira,
    fira_of_pytorch_optimizer,
    frugal,
    galore,
    golore,
    online,
    penalty,
    subtrack,
)
from benchmarks._measure import publish_result
from tests.optim.trajectories import SHAPES

SMALL = 1e-3  # gradients with entries of 1e-4 instead of 0.1
ADDED = 1e-7  # what is left where an option removes a departure: released code adds 1e-8 to norms


@dataclass(frozen=True)
class Departure:
    """A row of the table of departures.

    Attributes:
        code: Whose it is.
        does: What the code does.
        here: How to do the same here.
        measure: From the name of a shape to the size; None where the trajectory does not depart.
        shapes: Names of the shapes that are measured.
    """

    code: str
    does: str
    here: str
    measure: Callable[[str], float] | None = None
    shapes: tuple[str, ...] = tuple(SHAPES)


GALORE, SUBTRACK, APOLLO = "galore-torch", "SubTrack++ (criticalml-uw/SubTrack)", "apollo-torch"
FIRA, GOLORE = "Fira (xichen-fy/Fira)", "GoLore (pkumelon/Golore)"
ONLINE = "Online Subspace Descent (kyleliang919/Online-Subspace-Descent)"
NO_OPTION = "none"
LIMITER = "the limiter compares norms before Adam's bias correction"
LIMITER_HERE = '`limiter="before_bias_correction"`'
part = functools.partial
DEPARTURES = [
    Departure(SUBTRACK, "for rows ≥ columns the tangent is zero but for rounding: six of the seven matrices of a LLaMA "
              "block are not tracked", 'a group of those with `SubspaceAdam(..., rule="frozen")`',
              part(subtrack, ours={}), ("tall", "square")),
    Departure(SUBTRACK, "until November 2025 the geodesic went up the error, not down", NO_OPTION,
              part(subtrack, ours={}, ascends=True), ("wide",)),
    Departure(SUBTRACK, "the transport takes the first basis as the previous one, is a step early, and has (1 − β₂) in "
              "the place of (1 − β₂^(t−1))", NO_OPTION, part(subtrack, ours={"moments": "transport"}, transports=True),
              ("wide",)),
    Departure(SUBTRACK, "the recovered part is that of G − scale·SA, and not multiplied by `scale` (here 0.25)",
              "`recovery_scale=1 / scale` gives it that learning rate, the residual stays G − SA",
              part(subtrack, ours={}, scale=0.25), ("wide",)),
    Departure(SUBTRACK, LIMITER, LIMITER_HERE,
              part(subtrack, ours={"limiter": "after_bias_correction"}), ("wide",)),
    Departure(SUBTRACK, "eps, weight decay and square matrices as in galore-torch", "see there"),
    Departure(FIRA, LIMITER, LIMITER_HERE, part(fira, alpha=1.0)),
    Departure(FIRA, "the recovered part is that of G − α·SA, and not multiplied by α (here 0.25)",
              "none: `recovery_scale=1 / scale` leaves the residual G − SA", part(fira, alpha=0.25, **BEFORE)),
    Departure("pytorch_optimizer's Fira", "refreshes when t is a multiple of T, a step before ours", NO_OPTION,
              fira_of_pytorch_optimizer),
    Departure("pytorch_optimizer's Fira", "limiter and residual as in the authors' code", "see there"),
    Departure(GALORE, "square matrices are projected from the right", '`side="right"` in a group of the square ones',
              part(galore, removed=["eps"], side="std"), ("square",)),
    Departure(GALORE, "eps (1e-6) is added before the bias correction; gradients with entries of 0.1", NO_OPTION,
              part(galore, removed=[], eps=1e-6)),
    Departure(GALORE, "the same with entries of 1e-4", NO_OPTION, part(galore, removed=[], eps=1e-6, size=SMALL)),
    Departure(GALORE, "weights decay after the step (by 0.1)", NO_OPTION,
              part(galore, removed=["eps"], weight_decay=0.1)),
    Departure(APOLLO, "square matrices are projected from the right", '`side="right"` in a group of the square ones',
              part(apollo, removed=["eps"], ours={"side": "left"}), ("square",)),
    Departure(APOLLO, LIMITER, LIMITER_HERE,
              part(apollo, removed=["eps"], ours={"limiter": "after_bias_correction"})),
    Departure(APOLLO, "eps (1e-6) is added before the bias correction; gradients with entries of 0.1", NO_OPTION,
              part(apollo, eps=1e-6)),
    Departure(APOLLO, "the same with entries of 1e-4", NO_OPTION, part(apollo, eps=1e-6, size=SMALL)),
    Departure(APOLLO, "weights decay after the step (by 0.1)", NO_OPTION,
              part(apollo, removed=["eps"], weight_decay=0.1)),
    Departure(APOLLO, "APOLLO-Mini: one factor for a matrix, rank 1, `scale` 128 under a root",
              '`rank=1, scaling="tensor", scale=128**0.5`'),
    Departure(GOLORE, "at a refresh the rotated first moment goes into a local variable: it is lost, with the gradient "
              "of that step", NO_OPTION, golore),
    Departure(GOLORE, "switches after 80 % of the steps",
              "`random_after=`; the default of `subspace-lab train`"),
    Departure(ONLINE, "no penalty on the deviation from orthonormality", "`orthogonality=0.0`", penalty),
    Departure(ONLINE, "the basis decays, by torch's default of 0.01", NO_OPTION, online),
    Departure(ONLINE, "the learning rate of the basis is 1 / `update_proj_gap` times the schedule (here 1/200), not a "
              "multiple of that of the weights (here 5 · 0.01)", "`basis_lr_scale=1 / (lr * update_proj_gap)`",
              part(online, basis_lr_scale=5.0)),
    Departure("LDAdam", "hides the error in `p.grad`, where `zero_grad` and a resume lose it",
              "none: here it is state"),
    Departure("BAdam (badam)", "the first block gets T − 1 steps (here T = 4)", NO_OPTION,
              part(badam, outside=False), ("blocks",)),
    Departure("BAdam (badam)", "embedding and head are never trained by default",
              "a group of these without a gradient, or left out", part(badam, outside=True), ("blocks",)),
    Departure("FRUGAL", "a density is rounded down: at 0.25 two of 10 or 11 rows have a state, here three",
              "`rank=int(density * m)` in the place of `density`",
              frugal, ("tall", "wide")),
]  # fmt: skip


def mapped() -> dict[str, float]:
    """How far ours are from released code where an option removes the departure, in float64 with an eps of 1e-30."""
    exact = {"eps": 1e-30}
    by_option = {
        "Fira": part(fira, alpha=1.0, **BEFORE, **exact),
        "APOLLO": part(apollo, **exact),
        "SubTrack++, wide": part(subtrack, ours=exact, eps=1e-30),
        "SubTrack++, tall, as frozen": part(subtrack, ours={"rule": "frozen", **exact}, eps=1e-30),
    }
    shapes = {"SubTrack++, wide": ["wide"], "SubTrack++, tall, as frozen": ["tall", "square"]}
    return {what: max(measure(name) for name in shapes.get(what, SHAPES)) for what, measure in by_option.items()}


def main() -> None:
    rows = [
        {
            "code": row.code,
            "does": row.does,
            "here": row.here,
            "departs": {name: row.measure(name) for name in row.shapes} if row.measure else {},
        }
        for row in DEPARTURES
    ]
    agreement = mapped()
    publish_result(
        {"steps": STEPS, "rank": RANK, "update_interval": INTERVAL, "departures": rows, "with_options": agreement},
        {f"{what} against ours with the options of the table": (x, "<=", ADDED) for what, x in agreement.items()},
    )


if __name__ == "__main__":
    main()
