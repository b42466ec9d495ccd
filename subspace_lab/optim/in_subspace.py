"""Gradients that hold their part in a subspace and nothing else: for the optimizer, and refused to everybody else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

_NOT_READING = {  # what may be done to such a gradient: all that does not look at its numbers
    "__get__", "__set__", "_foreach_zero_", "zero_", "as_subclass", "detach_", "requires_grad_", "size", "dim", "numel",
    "stride", "is_contiguous", "is_floating_point", "is_complex", "element_size", "data_ptr", "__repr__", "__hash__",
}  # fmt: skip
_NUMBERS = {"data", "real", "imag", "T", "mT", "H", "mH"}  # attributes that are the numbers
_SCALING = {"mul_", "div_", "_foreach_mul_", "_foreach_div_", "_amp_foreach_non_finite_check_and_unscale_"}


class InSubspace(Tensor):
    """A gradient of which only the part in the optimizer's subspace is there; `low_rank_all_reduce` makes them.

    Whatever reads its numbers (a norm for clipping or a log, a capture) would take that part for the gradient, and
    is refused; multiplying it by a number, as `torch.amp.GradScaler` does, is not. Who copies it by ``torch.tensor`` or
    prints it sees the part: torch lets nobody stand in between.
    """

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Let through what does not read or scales, and what autograd and DDP do, which a mode shows as operators.

        Returns:
            What the function returns.

        Raises:
            ValueError: For all else.
        """
        name = getattr(func, "__name__", "")
        if name == "__get__" and (attribute := getattr(func.__self__, "__name__", "")) in _NUMBERS:  # type: ignore[attr-defined]
            name = f".{attribute}"
        passes = name in _NOT_READING or (name in _SCALING and _are_numbers(args[1:]))
        if not passes and not isinstance(func, torch._ops.OpOverload):
            raise ValueError(
                f"{name or func} reads a gradient that low_rank_all_reduce summed in its subspace only, so that norms, "
                "clipping and captures of it are not those of the gradient; pass clip_norm='projected' to "
                "low_rank_all_reduce if the part in the subspace is what you want, or leave low_rank_all_reduce out"
            )
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


def _are_numbers(values: Iterable[Any]) -> bool:
    """Whether there is no matrix of several entries among the factors of a product."""
    return all(
        _are_numbers(x) if isinstance(x, list | tuple) else not isinstance(x, Tensor) or x.numel() == 1 for x in values
    )


def gradient_of(p: Tensor) -> Tensor:
    """The gradient of a parameter that has one, as its optimizer may read it."""
    grad = p.grad
    assert grad is not None
    return grad.as_subclass(Tensor) if isinstance(grad, InSubspace) else grad
