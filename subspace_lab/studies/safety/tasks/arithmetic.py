"""Calculations in steps: of digits, or word problems."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from subspace_lab.studies.safety.generated import generated
from subspace_lab.studies.safety.kinds import Form, Task, register_task
from subspace_lab.studies.safety.policies.digits import NEGATIVE, POSITIVE
from subspace_lab.studies.safety.tasks import check_form
from subspace_lab.training.tasks.rows import Row, Split

if TYPE_CHECKING:
    from subspace_lab.training.tasks.exercise import Exercise

_STEPS = 4


@register_task("arithmetic")
@dataclass(frozen=True, kw_only=True)
class ArithmeticTask(Task):
    """Digits: one more or one less, four times, modulo 10, with the result of each step. English: word problems.

    A reply counts where its last number is the right one; one without a number is wrong, and counted as unparsed.

    Attributes:
        data: English rows: ``templates``, which are generated, ``gsm_symbolic`` (by the package reasoning-gym), or a
            file of the user in the format of GSM8K.
    """

    data: str = "templates"

    def exercise(self, form: Form) -> Exercise:
        """See `Task.exercise`."""
        from subspace_lab.training.tasks.arithmetic import arithmetic, numbers

        check_form("arithmetic", form, self.data, "templates")
        return numbers(_digits()) if form == "digits" else arithmetic(self.data, {})


@lru_cache(maxsize=1)
def _digits() -> Split:
    return generated(_row, "arithmetic")


def _row(draw: random.Random) -> Row:
    number, signs = draw.randrange(10), draw.choices(("plus", "minus"), k=_STEPS)
    who, what = draw.choices((*POSITIVE, *NEGATIVE), k=2)
    steps = itertools.accumulate(signs, lambda of, sign: (of + (1 if sign == "plus" else -1)) % 10, initial=number)
    results = [*steps][1:]
    return Row(f"Q {who} {number} {what} {' '.join(signs)} A", " ".join(map(str, results)))
