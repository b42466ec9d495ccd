"""The Hessian of a loss as a product with vectors.

Legend: ``g`` gradient of the block (N,); ``H`` Hessian of the block (N, N), never formed; ``v (N,)``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from subspace_lab.analysis.loss.batches import num_examples, split
from subspace_lab.analysis.loss.blocks import Block
from subspace_lab.analysis.loss.completeness import check_complete
from subspace_lab.analysis.loss.refusals import (
    check_gradients,
    check_mean,
    check_products,
    check_repeatable,
    check_value,
    named_derivatives,
)

Loss = Callable[[Any, Any], Any]
Gradients = tuple[Tensor | None, ...]


class LossOnBatch:
    """A loss at the weights of a model, on a batch that may be cut into micro-batches.

    Args:
        model: The model that the loss is computed with.
        loss: ``loss(model, batch)``, a mean over the examples where the batch is cut.
        batch: A batch of any form that the loss takes.
        micro_batch: Examples at a time; None takes the batch as it is.

    Attributes:
        parts: The micro-batches with their shares of the batch.
        value: The loss.

    Raises:
        ValueError: If the loss is not a scalar, not finite, random, or no mean where the batch is cut.
    """

    def __init__(self, model: nn.Module, loss: Loss, batch: Any, micro_batch: int | None) -> None:
        self._model, self._loss = model, loss
        pieces = split(batch, micro_batch)
        if len(pieces) == 1:
            self.parts = [(batch, 1.0)]
        else:
            total = num_examples(batch)
            self.parts = [(piece, num_examples(piece) / total) for piece in pieces]
        values = [self.at(part).item() for part, _ in self.parts]
        check_repeatable(values[0], self.at(self.parts[0][0]).item())
        if len(pieces) > 1:
            self._check_mean(batch, values)
        self.value = sum(value * share for value, (_, share) in zip(values, self.parts, strict=True))

    def at(self, part: Any) -> Tensor:
        """The loss of a micro-batch, with its graph."""
        with torch.enable_grad():
            return check_value(self._loss(self._model, part))

    def _check_mean(self, batch: Any, values: list[float]) -> None:
        (first, a), (_, b) = self.parts[:2]
        both = split(batch, 2 * num_examples(first))[0]
        check_mean((a * values[0] + b * values[1]) / (a + b), self.at(both).item())


class HessianOperator:
    """Products with the Hessian of a block of parameters, by double backward.

    ``H v`` is the gradient of ``g^T v``, exact up to rounding, where a difference of two gradients would lose half of
    the digits. Of a batch in one piece the graph of ``g`` is built once and kept, so that a product costs one backward
    pass through it; of several micro-batches one graph at a time is built anew in every product, which takes about
    half as long again and takes the memory of one only.

    Args:
        loss: The loss on its batch.
        block: The parameters.

    Raises:
        ValueError: If the loss has no second derivative there.
    """

    def __init__(self, loss: LossOnBatch, block: Block) -> None:
        self.block = block
        self.products = 0
        self._loss = loss
        self._kept: Gradients | None = None

    def gradient(self) -> Tensor:
        """``g`` (N,), in the dtype of the block."""
        return self._mean(self._gradients(part) for part, _ in self._loss.parts)

    def product(self, v: Tensor) -> Tensor:
        """``H v`` (N,).

        Args:
            v: A vector (N,) of any real dtype.

        Returns:
            The product, in the dtype of the block.

        Raises:
            ValueError: If the loss has no second derivative, or the product is not finite.
        """
        self.products += 1
        pieces = [piece.to(p) for piece, p in zip(self.block.pieces(v), self.block.parameters, strict=True)]
        total = self._mean(self._products(part, pieces) for part, _ in self._loss.parts)
        if not bool(total.sum().isfinite()):
            raise ValueError(f"a product with the Hessian of {self.block.name} is not finite; take other weights")
        return total

    def check(self) -> None:
        """Refuse the block where torch does not have the whole of its derivatives; on the first micro-batch.

        Raises:
            ValueError: If they are not those that differences show; names the parameter.
        """
        part = self._loss.parts[0][0]
        check_complete(
            self.block,
            lambda: self._loss.at(part),
            self._gradients(part),
            lambda pieces: self._products(part, pieces),
        )

    def _products(self, part: Any, pieces: list[Tensor]) -> Gradients:
        gradients = self._gradients(part)
        used = [(g, piece) for g, piece in zip(gradients, pieces, strict=True) if g is not None]
        with named_derivatives(self.block):
            found: Gradients = torch.autograd.grad(
                [g for g, _ in used],
                self.block.parameters,
                [piece for _, piece in used],
                retain_graph=self._kept is not None,
                allow_unused=True,
            )
        check_products(self.block, gradients, found)
        return found

    def _gradients(self, part: Any) -> Gradients:
        if self._kept is not None:
            return self._kept
        with named_derivatives(self.block):
            gradients: Gradients = torch.autograd.grad(
                self._loss.at(part), self.block.parameters, create_graph=True, allow_unused=True
            )
        check_gradients(self.block, gradients)
        if len(self._loss.parts) == 1:
            self._kept = gradients
        return gradients

    @torch.no_grad()
    def _mean(self, found: Iterable[Gradients]) -> Tensor:
        """The weighted mean over micro-batches, flat."""
        total: Tensor | None = None
        for parts, (_, share) in zip(found, self._loss.parts, strict=True):
            flat = self._flat(parts)
            if len(self._loss.parts) == 1:
                return flat
            total = flat.mul_(share) if total is None else total.add_(flat, alpha=share)
        assert total is not None
        return total

    def _flat(self, parts: Gradients) -> Tensor:
        pairs = zip(parts, self.block.parameters, strict=True)
        whole = [torch.zeros_like(p) if part is None else part.detach() for part, p in pairs]
        return torch.cat([part.reshape(-1) for part in whole]).to(self.block.dtype)
