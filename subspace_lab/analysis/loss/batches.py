"""Batches of any form, cut into micro-batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor


def num_examples(batch: Any) -> int:
    """The examples in a batch: the first dimension that all of its tensors share.

    Args:
        batch: A tensor, or a dict, list or tuple with tensors in it.

    Returns:
        How many.

    Raises:
        ValueError: If it holds no tensor of a dimension or more, or tensors of different first dimensions.
    """
    sizes = {tensor.shape[0] for tensor in _tensors(batch) if tensor.ndim}
    if len(sizes) != 1:
        found = f"tensors of first dimensions {sorted(sizes)}" if sizes else f"a {type(batch).__name__} without tensors"
        raise ValueError(f"the batch cannot be cut into examples: it is {found}; give tensors (examples, ...)")
    return int(sizes.pop())


def split(batch: Any, size: int | None) -> list[Any]:
    """A batch in micro-batches of the same form; what is not a tensor goes into each of them.

    Args:
        batch: A tensor, or a dict, list or tuple with tensors in it.
        size: Examples per micro-batch, the last one may have fewer; None leaves the batch as it is.

    Returns:
        The micro-batches, views of the batch.
    """
    if size is None:
        return [batch]
    total = num_examples(batch)
    return [_cut(batch, start, min(start + size, total)) for start in range(0, total, size)]


def _tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from _tensors(value)
    elif isinstance(batch, list | tuple):
        for value in batch:
            yield from _tensors(value)


def _cut(batch: Any, start: int, stop: int) -> Any:
    if isinstance(batch, Tensor):
        return batch[start:stop] if batch.ndim else batch
    if isinstance(batch, Mapping):
        return {key: _cut(value, start, stop) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        parts = [_cut(value, start, stop) for value in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch
