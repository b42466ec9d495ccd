"""Lisa (arXiv 2405.18641): steps on safety rows and on the user's in turn, held near each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from subspace_lab._checks import whole_number
from subspace_lab.studies.safety.stages import Defense, check_not_negative, check_share, register_defense

if TYPE_CHECKING:
    from torch import Tensor

    from subspace_lab.studies.safety.context import StepContext


@register_defense("lisa")
@dataclass(frozen=True, kw_only=True)
class Lisa(Defense):
    """Two states in turn, safety rows first; each step has the gradient of ``rho/2 ‖w - w_other‖^2`` added.

    ``w_other`` are the last weights of the other state, those at which the state changed. The paper's 100 and 900 steps
    of 20,000 are scaled to the training. The anchor is as large as the trainable parameters, and is in the state.

    Attributes:
        rho: Strength of the pull.
        safety_steps: Steps on safety rows in a row; none for a two-hundredth of the training.
        user_steps: Steps on the user's rows in a row; none for nine times as many.
        prox_after: Share of the training without the pull.
    """

    stage: ClassVar = "train"
    needs: ClassVar = frozenset({"safety"})
    replaces_batch: ClassVar = True
    arxiv: ClassVar = "2405.18641"
    rho: float = 1.0
    safety_steps: int | None = None
    user_steps: int | None = None
    prox_after: float = 0.1

    def __post_init__(self) -> None:
        check_not_negative(rho=self.rho)
        check_share(prox_after=self.prox_after)
        for name in ("safety_steps", "user_steps"):
            if getattr(self, name) is not None:
                whole_number(name, getattr(self, name))

    def gradient(self, step: StepContext) -> list[Tensor | None]:
        """See `Defense.gradient`."""
        is_safety = self._is_safety(step.index, step.total)
        if step.index and is_safety != self._is_safety(step.index - 1, step.total):
            for place, p in enumerate(step.parameters):
                step.state[f"anchor.{place}"] = p.detach().clone()
        found = step.safety() if is_safety else step.user()
        if step.index < self.prox_after * step.total or "anchor.0" not in step.state:
            return [*found]
        anchors = [step.state[f"anchor.{place}"].to(p) for place, p in enumerate(step.parameters)]
        return [g + self.rho * (p.detach() - a) for g, p, a in zip(found, step.parameters, anchors, strict=True)]

    def _is_safety(self, index: int, total: int) -> bool:
        """Whether a step is one on safety rows."""
        safety = self.safety_steps or max(1, round(total / 200))
        user = self.user_steps or 9 * safety
        return index % (safety + user) < safety
