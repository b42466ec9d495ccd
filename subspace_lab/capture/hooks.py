"""The hook that an optimizer calls before each step."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from subspace_lab.capture.rounds import Rounds

_UNDER_LIGHTNING = (
    "under Lightning an optimizer's hook sees the gradients of the step before; "
    "use Trainer(callbacks=[capture.lightning_callback()]) in place of attach()"
)


class StepHook:
    """Counts an optimizer's steps and has each one recorded before it is taken.

    Args:
        observe: Records a step.
        optimizer: The optimizer as the user gave it; Accelerate's wrapper knows the accumulation and the loss scale.
        rounds: Counts its steps among those of the others.
    """

    def __init__(self, observe: Callable[..., None], optimizer: Optimizer, rounds: Rounds) -> None:
        self._observe = observe
        self._wrapper = optimizer
        self._rounds = rounds

    def __call__(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Record the step, or have it recorded by the closure that computes its gradient.

        Args:
            optimizer: The one that takes the steps.
            args: Arguments of its ``step``, itself first.
            kwargs: Keyword arguments of its ``step``.

        Returns:
            The arguments with another closure in them, or None to leave them as they are.
        """
        if _skips(optimizer):
            return None
        turn = self._rounds.turn(optimizer)
        record = partial(self._observe, turn.step, turn=turn, **_facts(optimizer, self._wrapper))
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if not callable(closure):
            record()
            return None
        _refuse_lightning_closure(closure)
        recording = _recording(closure, record)
        if "closure" in kwargs:
            return args, {**kwargs, "closure": recording}
        return (args[0], recording, *args[2:]), kwargs


def bare_optimizer(optimizer: Optimizer, model: nn.Module) -> Optimizer:
    """The optimizer whose ``step`` does the work, out of the wrapper that Accelerate puts around it.

    Args:
        optimizer: An optimizer.
        model: The model that is captured.

    Returns:
        An optimizer on which a hook can be registered.

    Raises:
        ValueError: If it is not an optimizer, or Lightning's.
    """
    classes = {c.__name__ for c in type(optimizer).__mro__}
    if "LightningOptimizer" in classes or _is_automatic(model):
        raise ValueError(f"attach() is refused: {_UNDER_LIGHTNING}")
    inner = getattr(optimizer, "optimizer", None)
    if isinstance(inner, Optimizer):
        return bare_optimizer(inner, model)
    if not isinstance(optimizer, Optimizer) or not hasattr(optimizer, "_optimizer_step_pre_hooks"):
        raise ValueError(f"attach() takes a torch.optim.Optimizer that steps by itself, got {type(optimizer).__name__}")
    if inspect.unwrap(type(optimizer).step) is inspect.unwrap(Optimizer.step):
        raise ValueError(
            f"attach() does not work: {type(optimizer).__name__} has no step() that could be watched; "
            "call capture.step(n) by hand before whatever takes the step"
        )
    return optimizer


def learning_rate(optimizer: Any) -> float | None:
    """The learning rate of an optimizer's first parameter group, None where there is none."""
    groups = getattr(optimizer, "param_groups", None)
    return float(groups[0]["lr"]) if groups and "lr" in groups[0] else None


def loss_scale(optimizer: Any) -> float | None:
    """The scale of the `GradScaler` in Accelerate's wrapper around an optimizer, None where there is none."""
    scaler = getattr(optimizer, "scaler", None)
    return float(scaler.get_scale()) if scaler is not None and scaler.is_enabled() else None


def _facts(optimizer: Optimizer, wrapper: Optimizer) -> dict[str, Any]:
    # A GradScaler leaves unscaling to optimizers that can do it (the fused ones) and hands them the scale.
    scale = getattr(optimizer, "grad_scale", None)
    pending = float(scale) if isinstance(scale, Tensor) else None
    state = getattr(wrapper, "gradient_state", None)
    return {
        "scale": pending,
        "lr": learning_rate(optimizer),
        "accumulation": getattr(state, "num_steps", None),
        "loss_scale": loss_scale(wrapper) or pending,
    }


def _skips(optimizer: Optimizer) -> bool:
    """Whether a GradScaler has an optimizer that unscales by itself leave this step out."""
    found_inf = getattr(optimizer, "found_inf", None)
    return isinstance(found_inf, Tensor) and bool(found_inf)


def _recording(closure: Callable[[], Any], record: Callable[[], None]) -> Callable[[], Any]:
    """The closure, with the step recorded after its first evaluation."""
    pending = [record]

    def evaluate() -> Any:
        loss = closure()
        if pending:
            pending.pop()()
        return loss

    return evaluate


def _is_automatic(model: nn.Module) -> bool:
    lightning = any(c.__name__ == "LightningModule" for c in type(model).__mro__)
    return lightning and bool(getattr(model, "automatic_optimization", False))


def _refuse_lightning_closure(closure: Any) -> None:
    while isinstance(closure, partial):
        closure = closure.func
    if str(getattr(closure, "__module__", "")).split(".")[0] in {"lightning", "pytorch_lightning"}:
        raise ValueError(f"attach() does not work here: {_UNDER_LIGHTNING}")
