"""What the hooks of a defense may ask for: the gradients of a step, and a run before its first step or after it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from subspace_lab.studies.safety.kinds import Marked
from subspace_lab.studies.safety.linear import linear_layers, second_moments, weight_of, weights_by_name, write_weight
from subspace_lab.training.tasks.base import Batch

Kind = Literal["user", "safety", "harm"]
Loss = Callable[[nn.Module, Batch], Tensor]
Losses = Callable[
    [Kind, str | Loss], Iterable[Tensor]
]  # the parts whose sum is the loss of this step's batch of a kind
State = MutableMapping[str, Any]
_SAMPLE = 16  # entries of a parameter that are compared to find out whether it changed


class StepContext:
    """The gradients of one step.

    Args:
        parameters: The trainable ones.
        losses: Gives the loss of this step's batch of a kind, in parts (micro-batches): scalars with a graph.
        weights: ``base`` and ``aligned``: tensors in the order of the parameters; missing where there are none.
        state: What the defense remembers, ``run.state``.
        index: Steps taken before.
        total: Steps of the training.
        names: Of the parameters, for messages.

    Attributes:
        parameters: The trainable ones.
        state: Tensors and plain numbers, in every checkpoint.
        index: Steps taken before.
        total: Steps of the training.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        losses: Losses,
        *,
        weights: Mapping[str, Callable[[], Sequence[Tensor]]] | None = None,
        state: State | None = None,
        index: int = 0,
        total: int = 1,
        names: Sequence[str] | None = None,
    ) -> None:
        self.parameters = list(parameters)
        self.state: State = {} if state is None else state
        self.index, self.total = index, total
        self._losses, self._weights = losses, weights or {}
        self._names = [f"parameter {place}" for place in range(len(self.parameters))] if names is None else [*names]
        self._passes = 0
        self._cache: dict[str, _Kept] = {}
        self._before = _look_at(self.parameters)

    @property
    def passes(self) -> int:
        """Forward-backward passes so far in this step, one per batch however many parts it has."""
        return self._passes

    def user(self) -> list[Tensor]:
        """The gradient of the rows that are trained on, one tensor per parameter; do not change it in place."""
        return self.gradient("user")

    def safety(self, loss: Literal["ce", "kl"] = "ce") -> list[Tensor]:
        """The gradient of this step's safety rows: cross-entropy, or KL divergence to the aligned model."""
        return self.gradient("safety", loss)

    def harm(self) -> list[Tensor]:
        """The gradient of this step's harm rows."""
        return self.gradient("harm")

    def gradient(self, kind: Kind, loss: str | Loss = "ce") -> list[Tensor]:
        """The gradient of another loss of this step's batch of a kind.

        Args:
            kind: Which batch.
            loss: ``"ce"`` or ``"kl"``, whose gradient is computed once at the same weights; or a function of the model
                and a micro-batch, computed anew at every call, whose micro-batches are weighed as in training.

        Returns:
            One tensor per parameter, zeros where the loss does not depend on it. Do not change them in place.

        Raises:
            ValueError: If the weights, or a gradient that was handed out, were changed in place.
        """
        if callable(loss):
            return self._compute(kind, loss)
        return self.once(f"{kind} {loss}", partial(self._compute, kind, loss))

    def once(self, key: str, compute: Callable[[], Sequence[Tensor | None]]) -> list[Any]:
        """Tensors, or None, that are computed once at the same weights, and afresh inside of `at`.

        Args:
            key: Their name.
            compute: Gives them.

        Returns:
            The tensors.

        Raises:
            ValueError: If those that were handed out before were changed in place.
        """
        if key not in self._cache:
            found = compute()
            self._cache[key] = _Kept(found, _versions(found))
        kept = self._cache[key]
        if _versions(kept.tensors) != kept.versions:
            raise ValueError(f"the {key.split()[0]} gradient of this step was changed in place; change a copy of it")
        return [*kept.tensors]

    @contextmanager
    def at(self, delta: Sequence[Tensor]) -> Iterator[None]:
        """Shift the weights by `delta`, and put back the very bits afterwards.

        Args:
            delta: One tensor per parameter.

        Yields:
            While the weights are shifted; gradients are computed afresh there.
        """
        self.check()
        kept, cache = [p.detach().clone() for p in self.parameters], self._cache
        try:
            with torch.no_grad():
                for p, shift in zip(self.parameters, delta, strict=True):
                    p.add_(shift)
            self._cache, self._before = {}, _look_at(self.parameters)
            yield
        finally:
            with torch.no_grad():
                for p, value in zip(self.parameters, kept, strict=True):
                    p.copy_(value)
            self._cache, self._before = cache, _look_at(self.parameters)

    def weights(self, name: Literal["base", "aligned"]) -> Sequence[Tensor]:
        """The weights of an earlier model, in the order of the parameters.

        Args:
            name: Which.

        Returns:
            One tensor per parameter; of adapters, those of the model that tuning began with.

        Raises:
            ValueError: If there are none.
        """
        if name not in self._weights:
            raise ValueError(f"there are no {name} weights in the order of these parameters; give {name}=")
        return self._weights[name]()

    def check(self) -> None:
        """Find out whether somebody changed the weights in this step, by counters of torch and some of the entries.

        Raises:
            ValueError: If so; names the parameter.
        """
        if (place := self._before.first_change(_look_at(self.parameters))) is not None:
            raise ValueError(
                f"{self._names[place]} was changed while the gradient of a step was computed; "
                "return the gradient, or shift the weights by `with step.at(delta):`"
            )

    def _compute(self, kind: Kind, loss: str | Loss) -> list[Tensor]:
        self.check()
        total: list[Tensor] = []
        for part in self._losses(kind, loss):
            found = torch.autograd.grad(part, self.parameters, allow_unused=True, materialize_grads=True)
            total = [a.add_(b) for a, b in zip(total, found, strict=True)] if total else [*found]
        if not total:
            raise ValueError(f"there are no {kind} rows in this step")
        self._passes += 1
        return total


@dataclass(frozen=True)
class _Kept:
    tensors: Sequence[Tensor | None]
    versions: list[int]


def _versions(tensors: Sequence[Tensor | None]) -> list[int]:
    return [0 if one is None else one._version for one in tensors]


@dataclass(frozen=True)
class _Look:
    """How a change is noticed: torch's counters, and the bits of some entries for what goes past these (`.data`)."""

    versions: list[int]
    counts: list[int]
    samples: Tensor

    def first_change(self, later: _Look) -> int | None:
        """The place of the first parameter that changed, None where none did; NaN is equal to itself."""
        pairs = zip(self.versions, later.versions, strict=True)
        if changed := [place for place, (before, after) in enumerate(pairs) if before != after]:
            return changed[0]
        if torch.equal(self.samples, later.samples):
            return None
        at = int((self.samples != later.samples).nonzero()[0])
        return next(place for place in range(len(self.counts)) if at < sum(self.counts[: place + 1]))


@torch.no_grad()
def _look_at(parameters: Sequence[Tensor]) -> _Look:
    flat = [p.detach().reshape(-1) for p in parameters]
    some = [one[:: max(1, len(one) // _SAMPLE)] for one in flat]
    samples = torch.cat([one.to(flat[0].device, torch.float64) for one in some]).view(torch.int64)
    return _Look([p._version for p in parameters], [len(one) for one in some], samples)


def step_of(
    parameters: Sequence[Tensor],
    losses: Mapping[Kind, Callable[[], Tensor]],
    *,
    base: Sequence[Tensor] | None = None,
    aligned: Sequence[Tensor] | None = None,
    state: State | None = None,
    index: int = 0,
    total: int = 1,
) -> StepContext:
    """A step on any parameters, without a model or a study: what a hook of a defense does can be tried on it.

    Args:
        parameters: Tensors that require gradients.
        losses: By kind (``user``, ``safety``, ``harm``), a function without arguments that returns the scalar loss; it
            stands for every loss of its kind that has a name, ``kl`` too.
        base: Weights before the alignment, in the order of the parameters.
        aligned: Weights after it.
        state: What the defense remembers.
        index: Steps taken before.
        total: Steps of the training.

    Returns:
        The step.

    >>> from subspace_lab.studies.safety.stages import defense
    >>> w = torch.tensor([1.0, -1.0, 2.0], requires_grad=True)
    >>> step = step_of([w], {"user": lambda: (w**2).sum() / 2, "safety": lambda: w.sum()})
    >>> defense("rehearsal:rho=2").gradient(step)
    [tensor([3., 1., 4.])]
    """

    def parts(kind: Kind, loss: str | Loss) -> list[Tensor]:
        if callable(loss):
            raise ValueError("a loss of model and batch needs a model; a step of `step_of` has none")
        if kind not in losses:
            raise ValueError(f"there is no loss of {kind} rows in this step; it has {', '.join(losses)}")
        return [losses[kind]()]

    earlier = {"base": base, "aligned": aligned}

    def given(values: Sequence[Tensor]) -> Callable[[], Sequence[Tensor]]:
        return lambda: values

    weights = {name: given(values) for name, values in earlier.items() if values is not None}
    return StepContext(parameters, parts, weights=weights, state=state, index=index, total=total)


@dataclass
class RunContext:
    """A run before its first step, for `Defense.prepare`, or after its last one, for `Defense.repair`.

    The matrices are the weights of linear layers in blocks, of a model without blocks all linear layers but the head;
    they are named as parameters of the model without adapters, and oriented ``(outputs, inputs)``.

    Attributes:
        model: The model, adapters in place.
        rows: What is trained on; `prepare` may replace it. Empty in a repair.
        state: What the defense remembers; tensors and plain numbers.
        pools: Rows of the kinds ``safety`` and ``harm``.
        batches: Turns rows into batches of tensors on the model's device, in their order.
        earlier: ``base`` and ``aligned``: tensors by the names of the parameters of a model without adapters.
        seed: Of everything that is drawn.
        steps: Of the training.
        batch_size: Rows of a step.
    """

    model: nn.Module
    rows: list[Marked]
    state: State
    pools: Mapping[str, Sequence[Marked]]
    batches: Callable[[Sequence[Marked]], Iterable[Batch]]
    earlier: Mapping[str, Callable[[], Mapping[str, Tensor]]] = field(default_factory=dict)
    seed: int = 0
    steps: int = 0
    batch_size: int = 1

    def __post_init__(self) -> None:
        self._loaded: dict[str, Mapping[str, Tensor]] = {}
        self._moments: dict[tuple[str, int | None, str], Tensor] = {}

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The trainable ones, in the order of ``step.parameters``."""
        return [p for p in self.model.parameters() if p.requires_grad]

    @cached_property
    def _weights(self) -> dict[str, nn.Module | nn.Parameter]:
        return weights_by_name(self.model)

    @cached_property
    def _matrices(self) -> dict[str, nn.Module]:
        return linear_layers(self.model)

    def weights(self) -> Sequence[str]:
        """The names of all weights of the model without adapters, tied ones once."""
        return [*self._weights]

    def matrices(self) -> Mapping[str, nn.Module]:
        """The linear layers in blocks by the names of their weights, with an adapter where they have one."""
        return self._matrices

    def weight(self, name: str) -> Tensor:
        """The weight that a layer computes with, adapters merged: ``W + (alpha / r) B A``.

        Args:
            name: One of `weights`.

        Returns:
            A tensor of its own: ``(outputs, inputs)`` of a linear layer, else as the parameter is.
        """
        return weight_of(self._weights[name])

    def write(self, name: str, weight: Tensor) -> None:
        """Make a layer compute with another weight, in place.

        Where the layer has an adapter, the weight goes into the frozen layer below it and B becomes zero, so that the
        two together are the weight that was given, to the bit.

        Args:
            name: One of `weights`.
            weight: In the shape that `weight` gives.
        """
        write_weight(self._weights[name], weight)

    def before(self, model: Literal["base", "aligned"], name: str) -> Tensor:
        """A weight in an earlier model.

        Args:
            model: Which.
            name: One of `weights`.

        Returns:
            A tensor on the device of the model, in the shape that `weight` gives.

        Raises:
            ValueError: If there are no such weights.
        """
        if model not in self._loaded:
            if model not in self.earlier:
                raise ValueError(
                    f"there are no {model} weights here; this run knows {', '.join(self.earlier) or 'none'}"
                )
            self._loaded[model] = self.earlier[model]()
        return weight_of(self._weights[name], self._loaded[model][name])

    def update(self, name: str) -> Tensor:
        """The effective update of a weight by the tuning, ``D = W - W_aligned``, adapters merged.

        Args:
            name: One of `weights`.

        Returns:
            A tensor in the shape that `weight` gives.
        """
        return weight_of(self._weights[name], less=self.before("aligned", name))

    def alignment(self, name: str) -> Tensor:
        """What the alignment changed in a weight, ``V = W_aligned - W_base``.

        Args:
            name: One of `weights`.

        Returns:
            A tensor in the shape that `weight` gives.
        """
        return self.before("aligned", name) - self.before("base", name)

    def inputs(self, name: str, kind: Literal["safety", "harm"], rows: int | None = None) -> Tensor:
        """The second moment of a layer's inputs, ``X^T X / n``, over the n tokens of rows of a kind.

        One pass over the rows serves all matrices, or as many as fit into 2 GiB; activations are not stored. It is of
        the model at the first time that a matrix is asked for.

        Args:
            name: Of a matrix.
            kind: Which rows.
            rows: So many, from the first; None for all of the pool.

        Returns:
            A symmetric tensor ``(inputs, inputs)``.

        Raises:
            ValueError: If there are no rows, or fewer than asked for.
        """
        if (kind, rows, name) not in self._moments:
            chosen = self.chosen(kind, rows)
            found = second_moments(self.model, self.batches(chosen), self.matrices(), name)
            self._moments |= {(kind, rows, one): moment for one, moment in found.items()}
        return self._moments[kind, rows, name]

    def chosen(self, kind: Literal["safety", "harm"], rows: int | None = None) -> Sequence[Marked]:
        """The first rows of a pool.

        Args:
            kind: Which pool.
            rows: How many; None for all.

        Returns:
            At least one row.

        Raises:
            ValueError: If there are no rows, or fewer than asked for.
        """
        pool = self.pools.get(kind, ())
        if not pool or len(pool) < (rows or 0):
            raise ValueError(f"{rows or 'some'} {kind} rows are needed, the pool has {len(pool)}; ask for fewer")
        return pool[:rows]
