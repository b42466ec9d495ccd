"""A plan: optimizer settings for every layer, each with the numbers that it rests on."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subspace_lab._paths import local_path
from subspace_lab._reading import read_json, typed
from subspace_lab.runs import RunError
from subspace_lab.runs.files import publish_json

if TYPE_CHECKING:
    import pandas as pd

FORMAT, VERSION = "subspace_lab.plan", 1
_FIRST = ("layer", "rank", "rule", "update_interval", "walk_step")


@dataclass(frozen=True)
class LayerPlan:
    """The settings of one layer and the numbers they rest on.

    Attributes:
        layer: Canonical parameter name.
        rank: Where the signal that a basis without noise would hold reaches 90 % of the largest measured one, between
            measured ranks; see `subspace_lab.recommend`. With a budget also less.
        excess: Energy fraction above ``null_noise`` at this rank, mean over the captured steps.
        fraction: Energy fraction at this rank.
        null_noise: What noise would give.
        update_interval: Steps after which a stale basis still keeps half of the signal that a fresh one of another
            batch holds, never more than the oldest measured age. None for a jump, as a random basis does not age, and
            without stale energies.
        retained: The share kept at that age, for a jump at the shortest one, 0 where no more than r/m is held; None
            without stale energies.
        bound: "at least" when even the oldest measured basis keeps enough, "at most" when even the youngest does
            not, "" when the interval lies between measured ages.
        rank_bound: "at least" when the largest measured rank is the one, "at most" when already the smallest is,
            "only" when no other was measured, "" when the rank lies between measured ones.
        above_noise: Whether the own energy at any measured rank is significantly above noise, or the stale one above
            r/m; where not, the rank is the smallest measured one and rests on nothing.
        rule: ``"walk"`` where a stale basis still keeps half at the interval, so that turning it a little is enough;
            ``"jump"`` where it does not at any measured age, or holds no more than noise would: a random basis is as
            good. With fast bases ``"trig_walk"`` for a walk, and ``"trig"`` for a jump.
        walk_step: By how much a walk turns, radians: the root-mean-square angle by which the gradient's space turned
            over the interval, at least 0.01, and 0.01 where what is lost is not above 2.5 standard errors; None for a
            jump, without stale energies, and with fast bases.
        recovery: ``"scaled"`` where a basis as old as the interval leaves a tenth of the energy or more outside, and
            the signal in the bulk, where it was measured, differs from zero by two standard errors; else ``"none"``.
        bulk: Energy fraction outside of the subspace, ``1 - fraction``.
        bulk_signal: Share of a training batch's bulk that is signal, at the rank and checkpoints of the table
            ``noise``; None without that table.
        state_bytes: What an optimizer of this rank keeps, in float32: basis, two moments and one norm.
        rank_se: Standard error of the rank before it was rounded, over the captured steps. Standard errors are None
            where the number itself is, where it is a bound or what a budget left, of fewer than three captured steps,
            and in plans of earlier releases.
        update_interval_se: Standard error of the interval, steps.
        retained_se: Standard error of the share kept.
        walk_step_se: How far above the walk step the angle is with one standard error less kept, radians.
        swaps: How many cosines a walk with a fast basis exchanges, so that it moves as far as the walk step says; None
            without one.
    """

    layer: str
    rank: int
    excess: float
    fraction: float
    null_noise: float
    update_interval: int | None
    retained: float | None
    bound: str
    rank_bound: str
    above_noise: bool
    rule: str
    walk_step: float | None
    recovery: str
    bulk: float
    bulk_signal: float | None
    state_bytes: int
    rank_se: float | None = None
    update_interval_se: float | None = None
    retained_se: float | None = None
    walk_step_se: float | None = None
    swaps: int | None = None


@dataclass(frozen=True)
class Plan:
    """Settings for every layer; saved as JSON, which `subspace_lab.optim.from_plan` makes an optimizer of.

    Attributes:
        layers: One plan per layer.
        steps: How many captured steps it rests on.
        budget_bytes: What the states of these layers had to fit into; None for no budget.
    """

    layers: tuple[LayerPlan, ...]
    steps: int
    budget_bytes: int | None = None

    @property
    def state_bytes(self) -> int:
        """What the states of all layers take together."""
        return sum(layer.state_bytes for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """What `save` writes."""
        return {"format": FORMAT, "format_version": VERSION, **asdict(self)}

    def save(self, path: str | Path) -> None:
        """Write it as JSON, whole or not at all.

        Args:
            path: The file.

        Raises:
            RunError: If it cannot be written.
        """
        publish_json(local_path(path, error=RunError), self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read what `save` wrote.

        Args:
            path: The file.

        Returns:
            The plan.

        Raises:
            RunError: If the file is missing or no plan.
        """
        try:
            content = read_json(local_path(path, error=RunError))
            return _plan(content)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            advice = "write one with: subspace-lab recommend RUN_DIR"
            raise RunError(f"{path} is not a plan of this release; {advice} ({reason})") from error

    def table(self) -> pd.DataFrame:
        """The plan as a table, one row per layer: the settings first, then what they rest on."""
        import pandas as pd

        rows = [asdict(layer) for layer in self.layers]
        return pd.DataFrame(rows, columns=[*_FIRST, *(f.name for f in fields(LayerPlan) if f.name not in _FIRST)])


@dataclass(frozen=True)
class _Head:
    """What a plan's file holds beside its layers."""

    format: str
    format_version: int
    steps: int
    budget_bytes: int | None
    layers: list  # type: ignore[type-arg]


def _plan(content: Any) -> Plan:
    head = typed(_Head, content)
    if (head.format, head.format_version) != (FORMAT, VERSION):
        raise ValueError(f"has format {head.format[:50]!r} of version {head.format_version}")
    layers = []
    for number, row in enumerate(head.layers):
        try:
            layers.append(typed(LayerPlan, row))
        except ValueError as error:
            raise ValueError(f"layer {number} {error}") from error
    names = [layer.layer for layer in layers]
    if len(set(names)) < len(names):
        raise ValueError("has a layer twice")
    for layer in layers:
        if min(layer.rank, layer.state_bytes) < 1 or (layer.update_interval or 1) < 1:
            raise ValueError(f"layer {layer.layer!r} has a rank, interval or size below 1")
    return Plan(tuple(layers), head.steps, head.budget_bytes)
