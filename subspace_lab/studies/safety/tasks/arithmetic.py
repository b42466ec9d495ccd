"""Calculations in steps: of digits, or word problems."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from subspace_lab.studies.safety.kinds import Form, Task, register_task
from subspace_lab.studies.safety.tasks import check_form
from subspace_lab.training.tasks.rows import Row, Split, split_by_prompt

if TYPE_CHECKING:
    from subspace_lab.training.tasks.exercise import Exercise


@register_task("arithmetic")
@dataclass(frozen=True, kw_only=True)
class ArithmeticTask(Task):
    """Digits: sums and differences of three, modulo 10, with the result of each step. English: word problems.

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
    signs = ("plus", "minus")
    every = itertools.product(range(10), signs, range(10), signs, range(10))
    return split_by_prompt([_row(*of) for of in every], "the task 'arithmetic'")


def _row(a: int, first: str, b: int, second: str, c: int) -> Row:
    middle = (a + b if first == "plus" else a - b) % 10
    last = (middle + c if second == "plus" else middle - c) % 10
    return Row(f"Q {a} {first} {b} {second} {c} A", f"{middle} {last}")
