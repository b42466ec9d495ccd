"""Attention that can be differentiated twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

MATH = "math kernel of scaled_dot_product_attention"


@contextmanager
def twice_differentiable_attention(model: nn.Module) -> Iterator[str]:
    """Attention by plain matrix products, and the model's own way of it given back afterwards, after errors too.

    The fused kernels have no second derivative. Within the block ``scaled_dot_product_attention`` takes its math
    kernel, and models of transformers that attend neither so nor eagerly (flash and flex attention, kernels of the
    user) are switched to eager. The value of the attention is the same up to rounding.

    Args:
        model: The model; its submodules may be models of transformers.

    Yields:
        What was done, in words.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    switched = {id(part.config): (part, part.config._attn_implementation) for part in _fused(model)}
    try:
        for part, _ in switched.values():
            part.set_attn_implementation("eager")
        with sdpa_kernel(SDPBackend.MATH):
            yield MATH + "".join(sorted({f"; eager in the place of {before}" for _, before in switched.values()}))
    finally:
        for part, before in switched.values():
            part.set_attn_implementation(before)


def _fused(model: nn.Module) -> list[Any]:
    """Models of transformers with an attention that may have no second derivative, the outer ones last."""
    found = [m for m in model.modules() if hasattr(m, "set_attn_implementation")]
    ways = [getattr(getattr(part, "config", None), "_attn_implementation", None) for part in found]
    return [part for part, way in zip(found, ways, strict=True) if way not in {None, "eager", "sdpa"}][::-1]
