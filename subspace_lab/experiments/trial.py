"""Trials, identified by their content."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from subspace_lab.experiments.hashing import FORMAT_VERSION, content_hash

Plain = str | int | float | bool | None
_SHORT = 12  # hexadecimal digits of the hash in a directory's name


@dataclass(frozen=True)
class Trial:
    """One run of a recipe, such as a training.

    The content hash identifies a trial; factors and label are for tables and people. Two trials of the same content
    run once, whatever their labels.

    Attributes:
        factors: What varies, by name (method, lr, seed, ...): columns of the result table.
        recipe: A name in `RECIPES`, or ``module:attribute`` of a plug-in.
        config: Everything that the recipe needs, plain and resolved.
        content: What of it decides the outcome, data and revisions included, from the recipe's `identity`.
        parents: Content hashes of the trials that it begins from.
        label: Its name for people; by default made of the factors.
    """

    factors: Mapping[str, Plain]
    recipe: str
    config: Mapping[str, Any]
    content: Mapping[str, Any] = field(default_factory=dict)
    parents: tuple[str, ...] = ()
    label: str = ""

    def __post_init__(self) -> None:
        text = self.label or "_".join(filter(None, (_short(*pair) for pair in self.factors.items())))
        object.__setattr__(self, "label", re.sub(r"[^A-Za-z0-9_.=+-]+", "-", text))

    @cached_property
    def hash(self) -> str:
        """The content hash, 64 hexadecimal digits."""
        return content_hash({
            "format": FORMAT_VERSION,
            "recipe": self.recipe,
            "content": self.content or self.config,
            "parents": list(self.parents),
        })

    @property
    def name(self) -> str:
        """Its directory: the label, and enough of the hash."""
        return f"{self.label}-{self.hash[:_SHORT]}"

    def with_factors(self, **factors: Plain) -> Trial:
        """The same trial with some factors changed, which its hash does not depend on."""
        other = dataclasses.replace(self, factors={**self.factors, **factors})
        other.__dict__["hash"] = self.hash
        return other


def _short(name: str, value: Plain) -> str:
    if value is None or value == "" or name == "phase":
        return ""
    if isinstance(value, float):
        return f"{name}{value:g}"
    return str(value) if isinstance(value, str) else f"{name}{value}"
