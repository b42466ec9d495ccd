"""Whether the derivatives that torch gives are those of the loss: compared with differences, whatever the reason.

Autograd knows only what was recorded. A part that was detached, computed under ``no_grad``, by numpy, from ``.data``,
in a reentrant checkpoint or by a function whose backward is not differentiable is a constant to it, and the Hessian of
the rest looks like any other. Differences of the loss and of its gradient see what is really there.

Legend: ``w`` weights of a block, ``g`` gradient, ``H`` Hessian; ``d`` direction, as long as w in each parameter; ``t``
step, so that ``(L(w + t d) - L(w - t d)) / 2t`` is compared with ``g^T d`` and the same of ``g`` with ``H d``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from subspace_lab.analysis.loss.blocks import Block

Gradients = Sequence[Tensor | None]
Evaluate = Callable[[], Tensor]
_ROUNDINGS = 8
_STEPS = (1.0, 1 / 4, 1 / 16, 1 / 64)
_ALIKE = 0.01  # a derivative and a difference that differ by no more are the same
_SURE = 8  # how much further from the derivative than from each other two differences are before they are believed
_SMALL = 1e-3  # the share of the whole below which a parameter's part is not looked at
_FAR = 0.05
_CROSSED = 10  # kinks between two points at which a difference of gradients can still be distinguished from curvature
_KINKED = (
    "Relu", "Threshold", "Prelu", "Hardtanh", "Hardswish", "Hardsigmoid", "shrink", "Abs", "Sgn", "Clamp", "Max", "Min",
    "Amax", "Amin", "Sort", "Topk", "Kthvalue", "Median", "Quantile", "L1Loss", "Round", "Floor", "Ceil",
)  # fmt: skip
_REASONS = (
    "a part of the graph is missing (detach, no_grad, .data, numpy, a reentrant checkpoint, a backward or hook that is "
    "not differentiable); fix that, or freeze the parameter (requires_grad_(False))"
)


def check_complete(
    block: Block,
    loss: Evaluate,
    gradients: Gradients,
    products: Callable[[list[Tensor]], Gradients] | None = None,
) -> None:
    """Refuse a block of which torch does not have the whole derivative.

    It costs seven evaluations of the loss, two gradients and a product. More differences are taken only where these
    disagree with the derivative, and they are believed only where two of them agree with each other: kinks, noise and
    half precision refuse nothing. Second derivatives of a loss with many kinks (ReLU, maxima) are compared only where
    a function of the user's is in it: a Hessian has nothing to do with kinks, differences of gradients have.

    Args:
        block: The parameters.
        loss: Evaluates the loss, with its graph.
        gradients: Of the parameters, as torch has them; None where it knows of no dependence.
        products: ``v -> H v`` in pieces; None compares first derivatives only.

    Raises:
        ValueError: If the loss or its gradient changes otherwise than torch's derivatives say; names a parameter.
    """
    value = loss()
    _check_unknown(block, loss, gradients, value)
    eps = max(torch.finfo(dtype).eps for dtype in {value.dtype, *(p.dtype for p in block.parameters)})
    steps = [eps ** (1 / 3) * shorter for shorter in _STEPS]
    along = _directions(block, gradients, seed=0, along=True)
    for directions in (along, *(_directions(block, gradients, seed=seed) for seed in (1, 2))):
        _check_slope(block, loss, gradients, directions, steps, _ROUNDINGS * eps * abs(value.item()))
    if products is not None and not _is_kinked(value, steps[0]):
        _check_bends(block, loss, gradients, along, _filled(block, products(along)), steps, _ROUNDINGS * eps)


@contextmanager
def displaced(block: Block, directions: Sequence[Tensor], step: float) -> Iterator[None]:
    """The weights ``w + t d`` for as long as the context lasts; the memory of the weights is not written.

    Args:
        block: The parameters.
        directions: d, of the parameters' shapes.
        step: t.

    Yields:
        Nothing.
    """
    before = [parameter.data for parameter in block.parameters]
    try:
        for parameter, data, d in zip(block.parameters, before, directions, strict=True):
            parameter.data = torch.add(data, d, alpha=step)
        yield
    finally:
        for parameter, data in zip(block.parameters, before, strict=True):
            parameter.data = data


def _check_unknown(block: Block, loss: Evaluate, gradients: Gradients, value: Tensor) -> None:
    """Refuse parameters that torch takes for unused, but that the loss changes with."""
    unknown = [i for i, g in enumerate(gradients) if g is None]
    if not unknown:
        return
    directions = _directions(
        block, [p if g is None else None for g, p in zip(gradients, block.parameters, strict=True)], seed=0
    )

    def changed(which: Sequence[int]) -> bool:
        moves = [d if i in which else torch.zeros_like(d) for i, d in enumerate(directions)]
        with displaced(block, moves, _FAR):
            moved = loss().item()
        return abs(moved - value.item()) > _ROUNDINGS * torch.finfo(value.dtype).eps * abs(value.item())

    if changed(unknown):
        name = next((block.names[i] for i in unknown if changed([i])), block.names[unknown[0]])
        raise ValueError(f"the loss changes with {name}, but has no gradient there: {_REASONS}")


def _check_slope(
    block: Block, loss: Evaluate, gradients: Gradients, directions: list[Tensor], steps: Sequence[float], noise: float
) -> None:
    """Compare the slope of the loss along a direction with what the gradient says."""
    pairs = zip(gradients, directions, strict=True)
    said = sum(float((g.detach() * d).sum()) for g, d in pairs if g is not None)
    before = math.nan
    for step in steps:
        values = []
        for sign in (1, -1):
            with displaced(block, directions, sign * step):
                values.append(loss().item())
        found = (values[0] - values[1]) / (2 * step)
        off = abs(found - said)
        if off <= _ALIKE * max(abs(found), abs(said)) + noise / step:
            return
        if off > _SURE * abs(found - before):
            raise ValueError(
                f"the gradient of {block.name} is not that of the loss, which changes by {found:.3g} along a direction "
                f"where the gradient says {said:.3g}: {_REASONS}"
            )
        before = found


def _check_bends(
    block: Block,
    loss: Evaluate,
    gradients: Gradients,
    directions: list[Tensor],
    said: list[Tensor],
    steps: Sequence[float],
    eps: float,
) -> None:
    """Compare how the gradient changes along a direction with a product, parameter by parameter."""
    sizes = [_norm(d) for d in directions]
    rounding = eps * math.hypot(*(_norm(g) * size for g, size in zip(gradients, sizes, strict=True) if g is not None))
    left = set(range(len(said)))
    before: list[Tensor] = []
    for step in steps:
        points = []
        for sign in (1, -1):
            with displaced(block, directions, sign * step):
                points.append(_filled(block, torch.autograd.grad(loss(), block.parameters, allow_unused=True)))
        found = [(a - b) / (2 * step) for a, b in zip(*points, strict=True)]
        norms = [max(_norm(a), _norm(b)) for a, b in zip(found, said, strict=True)]
        floor = _SMALL * math.hypot(*(norm * size for norm, size in zip(norms, sizes, strict=True))) + rounding / step
        for i in sorted(left):
            off = _norm(found[i] - said[i])
            if off * sizes[i] <= _ALIKE * norms[i] * sizes[i] + floor:
                left.discard(i)
            elif before and off > _SURE * _norm(found[i] - before[i]):
                raise ValueError(
                    f"the second derivative of {block.names[i]} is incomplete, it differs by {off / norms[i]:.0%} from "
                    f"how its gradient changes along a direction: {_REASONS}"
                )
        if not left:
            return
        before = found


@torch.no_grad()
def _directions(block: Block, gradients: Gradients, *, seed: int, along: bool = False) -> list[Tensor]:
    """Random directions as long as the parameters, or half along the gradient; zero where there is no gradient.

    Parameters that are zero are moved as if their entries were as large as those of others.

    Returns:
        Tensors of the parameters' shapes.
    """
    generator = torch.Generator().manual_seed(seed)
    entries = [_norm(p) / max(1, p.numel()) ** 0.5 for p in block.parameters]
    directions = []
    for parameter, gradient, entry in zip(block.parameters, gradients, entries, strict=True):
        d = torch.randn(parameter.shape, generator=generator).to(parameter)
        length = (entry or max(entries) or 1.0) * parameter.numel() ** 0.5
        if gradient is None or length == 0:
            directions.append(torch.zeros_like(d))
            continue
        if along and (norm := _norm(gradient)) > 0:
            towards = gradient.to(d) / norm
            d = towards + d / _norm(d) * (1 if float((towards * d).sum()) > 0 else -1)
        directions.append(d * (length / _norm(d)))
    return directions


def _is_kinked(value: Tensor, step: float) -> bool:
    """Whether differences of gradients count kinks, of functions whose second derivatives torch knows by itself."""
    kinks = 0
    stack, seen = [value.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            return False
        if any(word in node.name() for word in _KINKED):
            kinks += math.prod(node._input_metadata[0].shape)
        stack.extend(following for following, _ in node.next_functions)
    return kinks * step > _CROSSED


def _filled(block: Block, gradients: Gradients) -> list[Tensor]:
    """Gradients, zero where there are none."""
    pairs = zip(gradients, block.parameters, strict=True)
    return [torch.zeros_like(p) if g is None else g.detach() for g, p in pairs]


def _norm(tensor: Tensor) -> float:
    wide = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    return float(torch.linalg.vector_norm(tensor.detach(), dtype=wide))
