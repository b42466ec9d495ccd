"""The blocks of a model and their attention: outputs, the gradients there, and what is added to these.

Legend: ``a_l`` the output of the attention of block l, ``g_l`` the gradient of the loss there.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from subspace_lab.training.tasks.base import Batch


def attention_blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The attention of every block: the outermost modules in a block that are called with a mask.

    Nothing but attention looks from one token at another, so that nothing else takes a mask; the blocks are the members
    of the outermost lists of modules.

    Args:
        model: The model.

    Returns:
        Path of the block and its attention, in the order of the model; two where a block has two.

    Raises:
        ValueError: If there is none.
    """
    found = []
    for path, block in _blocks(model, ""):
        found += [(path, attention) for attention in _with_mask(block)]
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no attention blocks (modules in a list of blocks that are called with a mask)"
        )
    return found


@contextmanager
def block_outputs(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """What the blocks of a model give, while it runs.

    Args:
        model: The model.

    Yields:
        Path of the block to its output ``(rows, tokens, width)``, once the model ran; the hooks are removed afterwards.
    """
    found: dict[str, Tensor] = {}

    def watch(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            found[path] = output if isinstance(output, Tensor) else output[0]

        return hook

    with ExitStack() as stack:
        for path in dict.fromkeys(path for path, _ in attention_blocks(model)):
            stack.callback(model.get_submodule(path).register_forward_hook(watch(path)).remove)
        yield found


def perturbations(gradients: Sequence[Tensor], rho: float) -> list[Tensor]:
    """``eps_l = rho g_l / ‖(g_1 .. g_L)‖``: along the gradients, of norm rho over all blocks.

    Args:
        gradients: At the outputs of the blocks.
        rho: The norm.

    Returns:
        One tensor per block; zeros where all gradients are.

    >>> perturbations([torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])], 0.1)
    [tensor([0.0600, 0.0000]), tensor([0.0000, 0.0800])]
    """
    norm = torch.stack([g.double().square().sum() for g in gradients]).sum().sqrt()
    return [g * (rho / norm).to(g) if norm > 0 else torch.zeros_like(g) for g in gradients]


class Observed:
    """The loss of a batch, which leaves the gradients at the outputs of attention behind.

    Attributes:
        gradients: By number of the attention block, once the loss was differentiated.
        blocks: How many there are; 0 before the loss was computed.
    """

    def __init__(self) -> None:
        self.gradients: dict[int, Tensor] = {}
        self.blocks = 0

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss, as a function for `StepContext.gradient`."""
        if self.blocks:
            raise ValueError("activations are perturbed in a step of one batch only; set accumulation to 1")

        def watch(place: int) -> Callable[[Tensor], Tensor]:
            def look(output: Tensor) -> Tensor:
                def keep(gradient: Tensor) -> None:
                    self.gradients[place] = gradient.detach().clone()

                output.register_hook(keep)  # type: ignore[no-untyped-call]
                return output

            return look

        self.blocks = len(attention_blocks(model))
        return _loss(model, batch, {place: watch(place) for place in range(self.blocks)})

    def of(self, places: Sequence[int]) -> list[Tensor]:
        """The gradients of some blocks.

        Args:
            places: Their numbers.

        Returns:
            The gradients.

        Raises:
            ValueError: If one had none, since nothing before it is trained.
        """
        if missing := [place for place in places if place not in self.gradients]:
            raise ValueError(f"no gradient reaches the attention of block {missing[0]}: nothing before it is trained")
        return [self.gradients[place] for place in places]

    def all(self) -> list[Tensor]:
        """The gradients of all blocks, in their order."""
        return self.of(range(self.blocks))


def perturbed(added: Mapping[int, Tensor]) -> Callable[[nn.Module, Batch], Tensor]:
    """The loss of a batch with something added to the outputs of attention.

    Args:
        added: By number of the attention block, in the shape of its output.

    Returns:
        A function for `StepContext.gradient`.
    """

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return _loss(model, batch, {place: eps.add for place, eps in added.items()})

    return loss


def _loss(model: nn.Module, batch: Batch, changes: Mapping[int, Callable[[Tensor], Tensor]]) -> Tensor:
    blocks = attention_blocks(model)

    def hook_of(change: Callable[[Tensor], Tensor]) -> Callable[[nn.Module, Any, Any], Any]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
            if isinstance(output, Tensor):
                return change(output)
            return (change(output[0]), *output[1:])

        return hook

    with ExitStack() as stack:
        for place, change in changes.items():
            stack.callback(blocks[place][1].register_forward_hook(hook_of(change)).remove)
        loss: Tensor = model(**batch).loss
    return loss


def _blocks(module: nn.Module, path: str) -> list[tuple[str, nn.Module]]:
    found = []
    for name, child in module.named_children():
        inner = f"{path}.{name}" if path else name
        if isinstance(child, nn.ModuleList):
            found += [(f"{inner}.{number}", block) for number, block in child.named_children()]
        else:
            found += _blocks(child, inner)
    return found


def _with_mask(block: nn.Module) -> list[nn.Module]:
    found = []
    for child in block.children():
        names = inspect.signature(child.forward).parameters
        if any("mask" in name for name in names):
            found.append(child)
        else:
            found += _with_mask(child)
    return found
