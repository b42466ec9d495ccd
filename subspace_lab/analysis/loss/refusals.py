"""What has no Hessian worth the name, refused with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from subspace_lab.analysis.loss.blocks import Block

_SAME = 1e-5  # two evaluations of one loss differ by rounding only
_NOT_TWICE = ("derivative", "differentiate", "double backward", "not implemented", "not support", "use_reentrant")


def check_model(model: nn.Module) -> None:
    """Refuse a model whose loss is not a function of its weights and the batch alone.

    Args:
        model: The model that the loss is computed with.

    Raises:
        ValueError: If dropout is on, or batch normalization in training mode; names the module.
    """
    for name, module in model.named_modules():
        if not module.training:
            continue
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ValueError(
                f"{name or 'the model'} is a {type(module).__name__} in training mode: its statistics change with "
                "every evaluation and tie the examples of a batch to each other; call model.eval() first"
            )
        if _drops(module):
            raise ValueError(
                f"{name or 'the model'} ({type(module).__name__}) drops at random in training mode: every product "
                "would be of another loss; call model.eval() first"
            )


def _drops(module: nn.Module) -> bool:
    share = module.p if isinstance(module, nn.modules.dropout._DropoutNd) else getattr(module, "dropout", 0)
    return isinstance(share, int | float) and share > 0


def check_value(value: Any) -> Tensor:
    """The loss, if it is one number that can be differentiated.

    Args:
        value: What the loss function returned.

    Returns:
        It, without dimensions.

    Raises:
        ValueError: If it is something else, not finite, or does not depend on any trainable parameter.
    """
    if not isinstance(value, Tensor):
        hint = "; return its .loss" if hasattr(value, "loss") else "; return a scalar tensor"
        raise ValueError(f"loss(model, batch) returned a {type(value).__name__}{hint}")
    if value.numel() != 1:
        raise ValueError(
            f"loss(model, batch) returned a tensor of shape {tuple(value.shape)}, a scalar is needed; take its mean"
        )
    if not value.requires_grad:
        raise ValueError("the loss does not depend on any trainable parameter; do not detach it, nor use torch.no_grad")
    if not bool(value.isfinite().all()):
        raise ValueError(f"the loss is {value.item()} at these weights; take weights at which it is finite")
    return value.reshape(())


def check_repeatable(first: float, second: float) -> None:
    """Refuse a loss with something random in it.

    Args:
        first: The loss.
        second: The same loss, evaluated once more.

    Raises:
        ValueError: If they differ by more than rounding.
    """
    if abs(first - second) > _SAME * max(abs(first), abs(second)):
        raise ValueError(
            f"two evaluations of the loss on one batch differ ({first:.6g} and {second:.6g}): something in it is "
            "random; call model.eval(), or fix what it draws"
        )


def check_mean(parts: float, whole: float) -> None:
    """Refuse micro-batches of a loss that is not a mean over examples.

    Args:
        parts: The weighted mean over two micro-batches.
        whole: The loss of both together.

    Raises:
        ValueError: If they differ by more than rounding.
    """
    if abs(parts - whole) > 10 * _SAME * max(abs(parts), abs(whole)):
        raise ValueError(
            f"the loss of two micro-batches together is {whole:.6g}, their mean {parts:.6g}: it is not a mean over "
            "equally weighted examples, so that micro-batches would measure another loss; leave micro_batch out"
        )


def check_gradients(block: Block, gradients: tuple[Tensor | None, ...]) -> None:
    """Refuse a block of which the loss has no second derivative.

    A parameter that the loss does not use has the Hessian zero, beside others.

    Args:
        block: Its parameters are taken as one vector (N,).
        gradients: Of its parameters, made with ``create_graph=True``; None where the loss does not use one.

    Raises:
        ValueError: If the loss uses none of its parameters, a gradient is a constant, sparse, or not finite.
    """
    if all(gradient is None for gradient in gradients):
        raise ValueError(
            f"the loss does not depend on {block.name} in this batch, or no gradient reaches it (detach, no_grad, a "
            "reentrant checkpoint): it has no Hessian; leave it out"
        )
    for name, gradient in zip(block.names, gradients, strict=True):
        if gradient is not None and gradient.layout != torch.strided:
            raise ValueError(
                f"the gradient of {name} is sparse, and torch does not differentiate sparse gradients; make its layer "
                "with sparse=False, or freeze it (requires_grad_(False))"
            )
        if gradient is not None and not gradient.requires_grad:
            raise ValueError(_without_second_derivative(name))
        if gradient is not None and not bool(gradient.isfinite().all()):
            raise ValueError(f"the gradient of {name} is not finite at these weights; take others")


def check_products(block: Block, gradients: tuple[Tensor | None, ...], found: tuple[Tensor | None, ...]) -> None:
    """Refuse a block with a parameter that the loss uses, but that no gradient depends on.

    Args:
        block: Its parameters are taken as one vector (N,).
        gradients: Of its parameters; None where the loss does not use one.
        found: The products with the Hessian; None where torch found no way from the gradients to a parameter.

    Raises:
        ValueError: If there is such a parameter.
    """
    for name, gradient, product in zip(block.names, gradients, found, strict=True):
        if gradient is not None and product is None:
            raise ValueError(_without_second_derivative(name))


def _without_second_derivative(name: str) -> str:
    return (
        f"{name} has no second derivative: its gradient does not depend on it (the loss is linear in it, or the "
        "backward of an operation is not differentiable); freeze it (requires_grad_(False)) or choose other layers"
    )


@contextmanager
def named_derivatives(block: Block, which: str = "second") -> Iterator[None]:
    """Say in one line which block has an operation without a derivative.

    Args:
        block: The block that is in work.
        which: The derivative that is taken.

    Yields:
        Nothing.

    Raises:
        ValueError: In the place of what torch raises then.
        RuntimeError: Whatever else torch has to say.
    """
    try:
        yield
    except RuntimeError as error:
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        if isinstance(error, torch.OutOfMemoryError) or not any(word in text for word in _NOT_TWICE):
            raise
        raise ValueError(
            f"{block.name} has no {which} derivative: {text}; use the plain form of that operation (no compiled model, "
            "no fused kernel, no reentrant checkpointing)"
        ) from error
