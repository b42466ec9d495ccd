"""Whether a text is positive or negative: most of six words, or a review."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from subspace_lab.studies.safety.generated import generated
from subspace_lab.studies.safety.kinds import Form, Task, register_task
from subspace_lab.studies.safety.policies.digits import LABELS, NEGATIVE, POSITIVE
from subspace_lab.studies.safety.tasks import check_form
from subspace_lab.training.tasks.rows import Row, Split
from subspace_lab.training.tasks.scorers import exact_label

if TYPE_CHECKING:
    from subspace_lab.training.tasks.exercise import Exercise


@register_task("sentiment")
@dataclass(frozen=True, kw_only=True)
class SentimentTask(Task):
    """Digits: most of six words, of which 0, 1, 5 or 6 are positive. English: reviews.

    A reply counts where it is exactly one of the labels; anything else is wrong, and counted as unparsed.

    Attributes:
        data: English rows: ``templates``, which are generated, or a file of the user with text and label (SST-2, IMDB).
    """

    data: str = "templates"

    def exercise(self, form: Form) -> Exercise:
        """See `Task.exercise`."""
        from subspace_lab.training.tasks import sentiment as english

        check_form("sentiment", form, self.data, "templates")
        if form == "digits":
            return _labelled(_digits(), LABELS)
        return _labelled(english.reviews(self.data, {}), english.LABELS)


def _labelled(split: Split, labels: tuple[str, ...]) -> Exercise:
    from subspace_lab.training.tasks.exercise import ACCURACY, UNPARSED, scored

    def judge(row: Row, reply: str) -> tuple[float, float]:
        found = exact_label(reply, labels)
        return float(found == labels.index(row.response)), float(found is None)

    return scored(split, (ACCURACY, UNPARSED), judge)


@lru_cache(maxsize=1)
def _digits() -> Split:
    return generated(_row, "sentiment")


def _row(draw: random.Random) -> Row:
    positive = draw.choice((0, 1, 5, 6))
    words = [*draw.choices(POSITIVE, k=positive), *draw.choices(NEGATIVE, k=6 - positive)]
    draw.shuffle(words)
    return Row(f"Q {' '.join(words)} A", LABELS[positive > 3])
