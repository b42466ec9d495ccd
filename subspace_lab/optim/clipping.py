"""Adaptive group-wise gradient clipping (AGGC, arXiv 2601.11864).

Legend: ``n_t`` gradient norm of a group at step t, from 0; ``S_t`` its running mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from subspace_lab._checks import is_number, is_whole
from subspace_lab._kinds import kinds_of
from subspace_lab._names import named_parameters
from subspace_lab.optim.matrices import may_overlap
from subspace_lab.optim.shards import lying, norm_over, same_placement
from subspace_lab.optim.whole import is_distributed, local


class AdaptiveGroupClipper:
    """Keeps the gradient norm of every group of parameters in a band around its own history.

    ``[low S, high S]`` with ``S`` the running mean of the group's norms after clipping; a norm outside is scaled to the
    nearest edge. One global threshold lets a group that explodes shrink all others; here each has its own, and
    nothing is tuned to the model's scale. The first step, which has no history, sets S and is not clipped.

    Call it between ``backward`` (and unscaling) and ``optimizer.step``.

    Args:
        parameters: A model, whose parameters are grouped by the kind of their module (``q_proj``, ``down_proj``,
            ...), or named groups of parameters.
        low: Lower edge of the band over S; 0 never scales up.
        high: Upper edge over S.
        late_low: Lower edge from the end of the transition on; None for `low`.
        late_high: Upper edge from then on; None for `high`.
        transition: First and last step of the linear change from the early edges to the late ones.
        beta: Decay of the running mean.

    Raises:
        ValueError: If an edge, the decay or the transition is out of range, or there is nothing to clip.

    Norms are those of whole gradients, also of distributed parameters (FSDP2, tensor parallel).

    >>> p = nn.Parameter(torch.ones(4)); p.grad = torch.ones(4)
    >>> clip = AdaptiveGroupClipper({"all": [p]}, high=1.5)
    >>> clip(), p.grad.mul_(4)[0].item(), clip(), p.grad.norm().item()
    ({'all': 1.0}, 4.0, {'all': 0.375}, 3.0)
    """

    def __init__(
        self,
        parameters: nn.Module | Mapping[str, Iterable[Tensor]],
        *,
        low: float = 0.0,
        high: float = 1.5,
        late_low: float | None = None,
        late_high: float | None = None,
        transition: tuple[int, int] = (0, 0),
        beta: float = 0.98,
    ) -> None:
        self.low = (low, low if late_low is None else late_low)
        self.high = (high, high if late_high is None else late_high)
        for name, lower, upper in zip(("", "late_"), self.low, self.high, strict=True):
            numbers = all(isinstance(edge, float | int) for edge in (lower, upper))
            if not (numbers and 0 <= lower <= 1 <= upper):
                raise ValueError(
                    f"0 <= {name}low <= 1 <= {name}high is needed, got {name}low={lower!r}, {name}high={upper!r}"
                )
        if not (is_number(beta) and 0 <= beta < 1):
            raise ValueError(f"beta must be in [0, 1), got {beta!r}")
        if not _is_span(transition):
            raise ValueError(f"transition must be two steps in order, got {transition!r}")
        self.transition, self.beta = transition, beta
        groups = by_kind(parameters) if isinstance(parameters, nn.Module) else parameters
        if not isinstance(groups, Mapping) or not groups:
            raise ValueError(f"a model or a mapping of names to parameters is needed, got {type(parameters).__name__}")
        self.groups = {name: [p] if isinstance(p, Tensor) else list(p) for name, p in groups.items()}
        self.steps = 0
        self.means: dict[str, float] = {}

    def band(self) -> tuple[float, float]:
        """The edges of the band over S at this step."""
        start, end = self.transition
        late = 1.0 if self.steps >= end else max(0.0, (self.steps - start) / max(1, end - start))
        early_low, late_low = self.low
        early_high, late_high = self.high
        return early_low + late * (late_low - early_low), early_high + late * (late_high - early_high)

    @torch.no_grad()
    def __call__(self) -> dict[str, float]:
        """Clip the gradients in place.

        Returns:
            Group name to the factor that was applied; groups without gradients are absent. Gradients with NaN or Inf
            are left alone, factor 1, for the optimizer to complain about.
        """
        low, high = self.band()
        factors = {}
        for name, members in self.groups.items():
            grads = {p: _scalable(p) for p in members if p.grad is not None}
            if not grads:
                continue
            norm = global_norm(grads)
            mean = self.means.get(name, norm)
            factor = 1.0
            if math.isfinite(norm) and norm > 0:
                factor = min(max(norm, low * mean), high * mean) / norm if mean > 0 else 1.0
                self.means[name] = self.beta * mean + (1 - self.beta) * norm * factor
            if factor != 1:
                torch._foreach_mul_(list(grads.values()), factor)
            factors[name] = factor
        self.steps += 1
        return factors

    def state_dict(self) -> dict[str, Any]:
        """Step count and running means: plain values."""
        return {"steps": self.steps, "means": dict(self.means)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where another clipper of the same groups stopped.

        Args:
            state_dict: From `state_dict`.

        Raises:
            ValueError: If it is of other groups.
        """
        if not {"steps", "means"} <= set(state_dict):
            raise ValueError(f"a clipper's state has 'steps' and 'means', got {sorted(state_dict)}")
        unknown = sorted(set(state_dict["means"]) - set(self.groups))
        if unknown:
            raise ValueError(f"the state has the group {unknown[0]!r}, expected some of {', '.join(self.groups)}")
        self.steps, self.means = int(state_dict["steps"]), dict(state_dict["means"])


def _scalable(p: Tensor) -> Tensor:
    """The numbers of a gradient, every one once, so that multiplying them multiplies the gradient.

    A gradient whose entries share memory (expanded) is replaced by its copy, a sparse one with entries that occur
    several times by its sum.

    Returns:
        A tensor that shares its memory with the gradient; of a distributed one the part that is here.
    """
    if is_distributed(p):
        p.grad = same_placement(p)
    assert p.grad is not None
    if is_distributed(p.grad):
        return local(p.grad)
    grad = p.grad
    if grad.layout == torch.sparse_coo:
        p.grad = grad = grad.coalesce()
        return grad.values()
    if grad.layout != torch.strided:
        p.grad = grad = grad.to_dense()
    if may_overlap(grad):
        p.grad = grad = grad.clone(memory_format=torch.contiguous_format)
    return grad


def global_norm(grads: Mapping[Tensor, Tensor]) -> float:
    """Euclidean norm of the gradients of some parameters, over all processes that hold parts of them.

    Args:
        grads: Parameter to its gradient, of a distributed one the part that is here.

    Returns:
        The norm, see `total_norm`; the same on all of these processes.
    """
    alike: dict[object, list[Tensor]] = {}
    for p in grads:
        alike.setdefault(lying(p), []).append(p)
    norms = [norm_over(ps[0], total_norm([grads[p] for p in ps])) for ps in alike.values()]
    return norms[0] if len(norms) == 1 else math.hypot(*norms)


def total_norm(grads: list[Tensor]) -> float:
    """Euclidean norm of all entries of several tensors.

    Args:
        grads: Dense tensors.

    Returns:
        The norm; where squares over- or underflow it is computed without them. NaN or Inf if an entry is.
    """
    norm = float(torch.nn.utils.get_total_norm(grads))
    if 0 < norm < math.inf:
        return norm
    largest = max((float(grad.abs().max()) for grad in grads if grad.numel()), default=0.0)
    if largest == 0 or not math.isfinite(largest):
        return largest
    wide = [grad.to(torch.complex128 if grad.is_complex() else torch.float64) / largest for grad in grads]
    return largest * math.sqrt(sum(float(torch.linalg.vector_norm(grad)) ** 2 for grad in wide))


def _is_span(transition: Any) -> bool:
    """Whether this is two whole numbers in order, none below zero."""
    is_pair = isinstance(transition, tuple | list) and len(transition) == 2
    return is_pair and all(is_whole(step, 0) for step in transition) and transition[0] <= transition[1]


def by_kind(model: nn.Module) -> dict[str, list[Tensor]]:
    """Trainable parameters by what they are for in every block, weights and biases together.

    Args:
        model: A model, wrapped or not.

    Returns:
        Kind (``q_proj``, ``embed_tokens``, ...) to parameters, as in the layer table of a capture.
    """
    kinds: dict[str, list[Tensor]] = {}
    of = kinds_of(model)
    for name, p in named_parameters(model, trainable=True).items():
        kinds.setdefault(of[name], []).append(p)
    return kinds
