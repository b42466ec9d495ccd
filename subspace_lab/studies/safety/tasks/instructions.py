"""Instructions: what is to be done with digits, or with a function of the standard library."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from subspace_lab.studies.safety.generated import generated
from subspace_lab.studies.safety.kinds import Form, Task, register_task
from subspace_lab.studies.safety.tasks import check_form
from subspace_lab.training.tasks.rows import Row, Split
from subspace_lab.training.tasks.scorers import exact_match, token_f1

if TYPE_CHECKING:
    from subspace_lab.training.tasks.exercise import Exercise

_DIGITS = 4


@register_task("instructions")
@dataclass(frozen=True, kw_only=True)
class InstructionsTask(Task):
    """Digits: sort four, double each, or say the first. English: what a function does, in one sentence and in a format.

    A reply is scored by the F1 of its words; of digits also by exact match, in English by the share of formats obeyed.

    Attributes:
        data: English rows: ``stdlib``, or a file of the user with instruction, input and output, or with messages.
    """

    data: str = "stdlib"

    def exercise(self, form: Form) -> Exercise:
        """See `Task.exercise`."""
        from subspace_lab.training.tasks.instructions import instructions

        check_form("instructions", form, self.data, "stdlib")
        return _scored(_digits()) if form == "digits" else instructions(self.data, {})


def _scored(split: Split) -> Exercise:
    from subspace_lab.training.tasks.exercise import EXACT, F1, scored

    def judge(row: Row, reply: str) -> tuple[float, float]:
        return token_f1(reply, row.response), exact_match(reply, row.response)

    return scored(split, (F1, EXACT), judge)


@lru_cache(maxsize=1)
def _digits() -> Split:
    return generated(_row, "instructions")


def _row(draw: random.Random) -> Row:
    form, digits = draw.choice(("sort", "double", "first")), [draw.randrange(10) for _ in range(_DIGITS)]
    right = {"sort": sorted(digits), "double": [2 * digit % 10 for digit in digits], "first": digits[:1]}[form]
    return Row(f"Q {form} {' '.join(map(str, digits))} A", " ".join(map(str, right)))
