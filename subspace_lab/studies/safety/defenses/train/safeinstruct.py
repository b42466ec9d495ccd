"""SafeInstruct (arXiv 2309.07875): safety rows are mixed into the user's."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from subspace_lab._checks import whole_number
from subspace_lab.studies.safety.stages import Defense, register_defense

if TYPE_CHECKING:
    from subspace_lab.studies.safety.context import RunContext


@register_defense("safeinstruct")
@dataclass(frozen=True, kw_only=True)
class SafeInstruct(Defense):
    """Put safety rows among the rows that are trained on, at places that are drawn.

    Attributes:
        rows: How many; they are added, so that there are as many of the user's as before.
    """

    stage: ClassVar = "train"
    needs: ClassVar = frozenset({"safety"})
    replaces_batch: ClassVar = True
    arxiv: ClassVar = "2309.07875"
    rows: int = 100

    def __post_init__(self) -> None:
        whole_number("rows", self.rows)

    def prepare(self, run: RunContext) -> None:
        """See `Defense.prepare`."""
        draw = random.Random(f"safeinstruct {run.seed}")
        pool = run.chosen("safety")
        if self.rows > len(pool):
            raise ValueError(f"safeinstruct:rows={self.rows} are more than the {len(pool)} safety rows; ask for fewer")
        rows = [*run.rows, *(replace(one, kind="safety") for one in draw.sample(pool, self.rows))]
        draw.shuffle(rows)
        run.rows = rows
