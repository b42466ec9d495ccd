"""Defenses: what is done for a policy when a model is aligned, while it is tuned, and after.

A defense is a frozen dataclass of options with three hooks. What it has to remember between them goes into
``run.state``, which is in every checkpoint, so that a resumed training equals one that was not interrupted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from subspace_lab._checks import is_number
from subspace_lab.studies.safety.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from subspace_lab.studies.safety.context import RunContext, StepContext

Stage = Literal["align", "train", "repair"]
STAGES: tuple[Stage, ...] = ("align", "train", "repair")
NONE = "none"


@dataclass(frozen=True, kw_only=True)
class Defense:
    """A defense; a subclass overrides the hooks that it needs.

    Attributes:
        stage: When it acts.
        needs: What it needs, of ``safety`` and ``harm`` (rows), ``base`` and ``aligned`` (weights), ``matrices`` (a
            model with linear layers), ``system_prompt``.
        replaces_batch: Whether it decides which rows a step sees; two such defenses do not go together.
        whole_model: Whether it compares gradients of all parameters, which an optimizer that steps one block at a time
            never has.
        replaces_loss: Whether it has a loss of its own on the rows that are trained on, so that no other defense may
            come before it.
        whole_batch: Whether its loss is not a mean over rows, so that a step must be one batch, not several.
        cost: Forward-backward passes of a step, where fine-tuning has 1.
        arxiv: Number of the paper, empty for a control.
        revision: Counted up when its results change.
    """

    stage: ClassVar[Stage]
    needs: ClassVar[frozenset[str]] = frozenset()
    replaces_batch: ClassVar[bool] = False
    whole_model: ClassVar[bool] = False
    replaces_loss: ClassVar[bool] = False
    whole_batch: ClassVar[bool] = False
    cost: ClassVar[str] = "1"
    arxiv: ClassVar[str] = ""
    revision: ClassVar[int] = 1

    def prepare(self, run: RunContext) -> None:
        """Called once, before the first step; may replace ``run.rows`` and fill ``run.state``."""

    def gradient(self, step: StepContext) -> list[Tensor | None]:
        """The gradient of a step.

        Returns:
            One tensor per trainable parameter, in the order of ``step.parameters``; None for one that is to be left
            alone in this step, which a zero would not be: its momentum would move it.
        """
        return [*step.user()]

    def repair(self, run: RunContext) -> None:
        """Called once, after the last step; may change the weights in place. A repair defense has this hook alone."""


def check_not_negative(**options: float) -> None:
    """Refuse options that are not finite numbers of at least 0.

    Args:
        **options: By name.

    Raises:
        ValueError: If one is negative or not finite.

    >>> check_not_negative(rho=-1.0)
    Traceback (most recent call last):
    ValueError: rho must be a number of at least 0, got -1.0
    """
    for name, value in options.items():
        if not is_number(value) or value < 0:
            raise ValueError(f"{name} must be a number of at least 0, got {value!r}")


def check_share(**options: float) -> None:
    """Refuse options that are not shares: at least 0 and below 1.

    Args:
        **options: By name.

    Raises:
        ValueError: If one is not.

    >>> check_share(drop=1.0)
    Traceback (most recent call last):
    ValueError: drop must be at least 0 and below 1, got 1.0
    """
    for name, value in options.items():
        if not is_number(value) or not 0 <= value < 1:
            raise ValueError(f"{name} must be at least 0 and below 1, got {value!r}")


DEFENSES: Registry[Defense] = Registry("defense", "defenses.align", "defenses.train", "defenses.repair")
register_defense = DEFENSES.register


@dataclass(frozen=True)
class Chain:
    """Defenses that act together, in the order of their stages, within a stage as they were written.

    Attributes:
        defenses: In that order; none for fine-tuning alone.
    """

    defenses: tuple[Defense, ...] = ()

    def of(self, *stages: Stage) -> Chain:
        """Those of some stages."""
        return Chain(tuple(one for one in self.defenses if one.stage in stages))

    @property
    def text(self) -> str:
        """The canonical text: ``lox:k=4+safegrad+resta``."""
        return "+".join(map(DEFENSES.text, self.defenses)) or NONE

    @property
    def needs(self) -> frozenset[str]:
        """What any of them needs."""
        return frozenset().union(*(one.needs for one in self.defenses))


def defense(text: str) -> Defense:
    """A defense from its text.

    Args:
        text: ``safegrad:rho=0``.

    Returns:
        The defense.

    Raises:
        ValueError: If the name or an option is not known (names the nearest), or a value is not of its type.
    """
    return DEFENSES.parse(text)


def chain(text: str) -> Chain:
    """A chain from its text.

    Args:
        text: ``lox:k=8+safegrad+resta:gamma=0.5``, in any order of the stages, or ``none``.

    Returns:
        The chain.

    Raises:
        ValueError: If a defense is not valid, or stands in it twice with the same settings.
    """
    if text.strip() == NONE:
        return Chain()
    found: Sequence[Defense] = [defense(part) for part in text.split("+")]
    if twice := [one for place, one in enumerate(found) if one in found[:place]]:
        raise ValueError(f"{text!r} has {DEFENSES.text(twice[0])} twice; leave one out")
    return Chain(tuple(sorted(found, key=lambda one: STAGES.index(one.stage))))
