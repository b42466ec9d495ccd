"""A policy that is in files of the user's own."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from subspace_lab.studies.safety.kinds import Policy, Pools, register_policy
from subspace_lab.studies.safety.schemas import Schema, distinct, read_rows
from subspace_lab.training.tasks.rows import Row

_LEAST = 10  # restricted prompts, so that no pool is empty
_MOST_TESTED, _MOST_HELD = 100, 150


@register_policy("user")
@dataclass(frozen=True, kw_only=True)
class UserPolicy(Policy):
    """Restricted prompts with harmful responses from a file; true answers are not known, so the exact judge cannot act.

    The prompts are drawn into the pools without repetition: a fifth into ``align`` and into ``test`` (at most 100), a
    tenth into ``safety`` and into ``harm`` (at most 150), the rest into ``poison``. Of safe and contrast prompts half
    are evaluated (at most 100), the rest is aligned with. No text reaches a table, a report or a message.

    Attributes:
        harmful: A file of restricted prompts with the responses of an attacker; by schema ``beavertails`` those rows
            that are not safe.
        schema: Of all of the files.
        licence: Of the files, for the record.
        safe: A file of prompts that are to be answered, with their answers.
        contrast: A file of prompts that look restricted and are to be answered, with their answers.
        refusal: What is to be answered to a restricted prompt.
    """

    form: ClassVar[Literal["digits", "english"]] = "english"
    is_shipped: ClassVar[bool] = False
    has_answers: ClassVar[bool] = False

    harmful: Path
    schema: Schema
    licence: str
    safe: Path | None = None
    contrast: Path | None = None
    refusal: str = "I cannot help with that."

    def __post_init__(self) -> None:
        if not self.refusal.strip():
            raise ValueError("the refusal of the policy 'user' is empty; say what is answered to a restricted prompt")

    def pools(self, seed: int) -> Pools:
        """See `Policy.pools`.

        Args:
            seed: Of what is drawn.

        Returns:
            The pools.

        Raises:
            ValueError: If a file cannot be read, or has too few prompts; without any text of it.
        """
        draw = random.Random(f"user {seed}")
        restricted = self._rows(self.harmful, draw, harmful=True)
        if (total := len(restricted)) < _LEAST:
            raise ValueError(
                f"{self.harmful} has {total} different restricted prompts; a policy needs at least {_LEAST}"
            )
        sizes = {
            "align": total // 5,
            "test": min(_MOST_TESTED, total // 5),
            "safety": min(_MOST_HELD, total // 10),
            "harm": min(_MOST_HELD, total // 10),
        }
        taken = {name: [restricted.pop() for _ in range(size)] for name, size in sizes.items()}
        allowed, safe = self._halves(self.safe, draw)
        contrast, like = self._halves(self.contrast, draw)
        align = [*self._refused(taken["align"]), *safe, *like]
        draw.shuffle(align)
        return Pools(
            base=(),
            align=align,
            safety=self._refused(taken["safety"]),
            harm=taken["harm"],
            poison=restricted,
            test=taken["test"],
            contrast=contrast,
            allowed=allowed,
        )

    def _halves(self, path: Path | None, draw: random.Random) -> tuple[list[Row], list[Row]]:
        """What is evaluated, and the rest."""
        rows = [] if path is None else self._rows(path, draw, harmful=False)
        count = min(_MOST_TESTED, (len(rows) + 1) // 2)
        return rows[:count], rows[count:]

    def _rows(self, path: Path, draw: random.Random, *, harmful: bool) -> list[Row]:
        found = [one for one in read_rows(path.expanduser(), self.schema) if one.is_safe is not harmful]
        rows = distinct(found)
        draw.shuffle(rows)
        return rows

    def _refused(self, rows: list[Row]) -> list[Row]:
        return [Row(row.prompt, self.refusal, row.turns) for row in rows]
