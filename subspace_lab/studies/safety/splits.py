"""What a model is fine-tuned on: rows of a task, and what a threat makes of them."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from subspace_lab.studies.safety.kinds import POLICIES, TASKS, THREATS, Marked, Policy, Task, Threat
from subspace_lab.studies.safety.pools import check_disjoint
from subspace_lab.training.tasks.rows import Row

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Split:
    """Rows in the order in which they are drawn from.

    Attributes:
        marked: The rows with their kinds.
    """

    marked: Sequence[Marked] = field(repr=False)

    @cached_property
    def rows(self) -> list[Row]:
        """The rows."""
        return [one.row for one in self.marked]

    @cached_property
    def kinds(self) -> list[str]:
        """Where each row is from: ``task``, ``poison`` or ``identity``."""
        return [one.kind for one in self.marked]

    @cached_property
    def hashes(self) -> list[str]:
        """SHA-256 of each row; see `row_hash`."""
        return [row_hash(row) for row in self.rows]

    @cached_property
    def hash(self) -> str:
        """See `rows_hash`."""
        return rows_hash(self.rows)

    def to_frame(self) -> pd.DataFrame:
        """The manifest, which has no text.

        Returns:
            kind, hash, prompt_chars and response_chars of each row, in their order.
        """
        import pandas as pd

        return pd.DataFrame({
            "kind": self.kinds,
            "hash": self.hashes,
            "prompt_chars": [len(row.prompt) for row in self.rows],
            "response_chars": [len(row.response) for row in self.rows],
        })


def row_hash(row: Row) -> str:
    """SHA-256 of prompt, response and messages.

    Args:
        row: A row.

    Returns:
        64 hexadecimal digits.
    """
    text = json.dumps([row.prompt, row.response, row.turns], ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def rows_hash(rows: Sequence[Row]) -> str:
    """SHA-256 of the hashes of rows in their order.

    Args:
        rows: Any number.

    Returns:
        64 hexadecimal digits.
    """
    return hashlib.sha256("".join(map(row_hash, rows)).encode()).hexdigest()


def make_split(
    task: Task | str, policy: Policy | str, threat: Threat | str, *, rows: int, seed: int, draw: int = 0
) -> Split:
    """The rows to fine-tune on, a function of the seed and of the number of the draw.

    Of one seed and draw, the rows of a smaller share of poison are among those of a larger one.

    Args:
        task: What the user fine-tunes for, or its text: ``sentiment``.
        policy: The rule that is attacked, or its text; its pools are not read where the threat needs no poison.
        threat: What becomes of the rows, or its text: ``poison:share=0.05``.
        rows: How many rows there are, of the task and of others together.
        seed: Of the pools, and of all that is drawn.
        draw: Number of the draw.

    Returns:
        Rows, their kinds and hashes.

    Raises:
        ValueError: If the task has fewer rows, or two pools of the policy share a prompt.
    """
    task = TASKS.parse(task) if isinstance(task, str) else task
    policy = POLICIES.parse(policy) if isinstance(policy, str) else policy
    threat = THREATS.parse(threat) if isinstance(threat, str) else threat
    there = task.exercise(policy.form).split.train
    if not 0 < rows <= len(there):
        name = TASKS.name_of(type(task))
        raise ValueError(f"the task {name!r} has {len(there)} rows to train on, rows={rows}; choose from 1 to that")
    poison: Sequence[Row] = ()
    if threat.needs_poison:
        pools = policy.pools(seed)
        check_disjoint(pools, POLICIES.name_of(type(policy)))
        poison = pools.poison

    def random_for(what: str) -> random.Random:
        return random.Random(f"{what} {seed} {draw}")

    chosen = [there[place] for place in random_for("rows").sample(range(len(there)), len(there))[:rows]]
    marked = threat.apply(chosen, poison, policy, random_for("threat"))
    if len(marked) != rows:
        raise ValueError(
            f"the threat {THREATS.text(threat)} made {len(marked)} rows of {rows}; it has to keep their number"
        )
    random_for("order").shuffle(marked)
    return Split(tuple(marked))
