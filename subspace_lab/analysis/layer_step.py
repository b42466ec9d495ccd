"""One layer at one captured step, and what an analysis may ask of it and of its past.

Legend: ``C`` Gram matrix (m, m) of the oriented gradient (m, n); ``S (m, k)`` its top-k left singular basis.
"""

from __future__ import annotations

import functools
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from subspace_lab.numerics import Side
from subspace_lab.runs import Run
from subspace_lab.runs.snapshot import Snapshot


@dataclass(frozen=True)
class Layer:
    """A layer as the analyses see it: a row of the layer table with the oriented shape.

    Attributes:
        name: Canonical parameter name.
        depth: Block index or -1.
        kind: Name of its module.
        side: The side of the basis.
        m: Rows of the oriented gradient.
        n: Columns of the oriented gradient.
        residual_side: The side that lives in the residual stream, or None where that is unknown.
    """

    name: str
    depth: int
    kind: str
    side: Side
    m: int
    n: int
    residual_side: Side | None

    @property
    def largest_rank(self) -> int:
        """The singular values that there are, ``min(m, n)``: m, but for a layer on its longer side."""
        return min(self.m, self.n)

    @classmethod
    def of(cls, row: dict[str, Any]) -> Layer:
        """From a row of the layer table."""
        m, n = (row["rows"], row["cols"]) if row["side"] == "left" else (row["cols"], row["rows"])
        return cls(row["name"], row["depth"], row["kind"], row["side"], m, n, row.get("residual_side"))


@dataclass(frozen=True)
class Basis:
    """A top-k left singular basis S (m, k), the step it was captured at, and its leading columns that G determines."""

    step: int
    S: Tensor
    num_determined: int


@dataclass
class Past:
    """What is remembered of a layer: its first basis and those of the last captures, None where there was none.

    Attributes:
        recent: Bases of the last captures.
        first_columns: How many columns of the first basis are remembered, 0 for none.
        first: That basis.
    """

    recent: deque[Basis | None]
    first_columns: int
    first: Basis | None = None

    def push(self, basis: Basis | None) -> None:
        """Remember the basis of a capture."""
        self.recent.append(basis)
        if self.first is None and basis is not None and self.first_columns:
            self.first = replace(basis, S=basis.S[:, : self.first_columns].clone())


@dataclass
class LayerStep:
    """One layer at one captured step.

    Attributes:
        layer: A row of the layer table.
        step: The captured step.
        energies: Squared singular values (min(m, n),), float64, descending.
        C: Gram matrix (m, m), or None where the run does not keep it.
        S: Top-k basis (m, k), or None where the run does not keep it or the gradient is all zeros.
        num_determined: Singular directions that stand out of the rounding of what was kept; a basis may have more
            columns, which are arbitrary.
        residual_basis: Top-k basis on the side that lives in the residual stream, or None.
        past: The layer's earlier bases.
        neighbour: The same layer of the previous block at the same step, or None.
    """

    layer: Layer
    step: int
    energies: Tensor
    C: Tensor | None
    S: Tensor | None
    num_determined: int
    residual_basis: Tensor | None
    past: Past
    neighbour: LayerStep | None = None
    _images: dict[int, Tensor] = field(default_factory=dict)

    @functools.cached_property
    def total(self) -> float:
        """``||G||_F^2``; zero for a gradient that is all zeros."""
        return float(self.energies.sum())

    @property
    def basis(self) -> Basis | None:
        """The basis of this step, to be remembered."""
        return None if self.S is None else Basis(self.step, self.S, self.num_determined)

    def stale(self, lag: int) -> Basis | None:
        """The basis of this layer ``lag`` captures earlier, or None."""
        recent = self.past.recent
        return recent[-lag] if lag <= len(recent) else None

    def image(self, lag: int) -> Tensor:
        """``C @ S`` for the basis ``lag`` captures earlier (m, k); computed once, for energy and curvature alike."""
        if lag not in self._images:
            stale = self.stale(lag)
            assert self.C is not None
            assert stale is not None
            self._images[lag] = self.C @ stale.S.to(self.C.dtype)
        return self._images[lag]


def load_layer_step(
    run: Run, snapshot: Snapshot, layer: Layer, *, num_vectors: int, residual: bool, past: Past
) -> LayerStep | None:
    """Read one layer of a snapshot and decompose it once.

    Args:
        run: An opened run.
        snapshot: An open snapshot.
        layer: A row of the layer table.
        num_vectors: Size k of the basis; 0 when no analysis needs one.
        residual: Whether the basis on the residual side is needed.
        past: The layer's earlier bases.

    Returns:
        The layer at that step, or None where the layer had no finite gradient in this step.
    """
    k, C, S = min(num_vectors, layer.largest_rank), run.gram_of(snapshot, layer.name), None
    if C is not None:
        values, S = _eigh(C, k)
        floor = _rounding(values, C.dtype)
    else:
        step = int(snapshot.context["step"])
        sigma = snapshot.get("singular_values", layer.name)
        if sigma is None:
            return None
        values = run.checked(sigma, (layer.largest_rank,), step, layer.name).double().square()
        floor = (4 * torch.finfo(sigma.dtype).eps) ** 2 * float(values[0])
        if k and (kept := snapshot.get("basis", layer.name)) is not None:
            S = kept[:, :k]
    energies = values[: layer.largest_rank].clamp(min=0)  # what follows on the longer side is rounding
    num_determined = int((energies > floor).sum())
    if not num_determined:
        S = None
    residual_basis = _basis_of_residual(run, snapshot, layer, S, k) if residual and S is not None else None
    return LayerStep(layer, int(snapshot.context["step"]), energies, C, S, num_determined, residual_basis, past)


def _eigh(C: Tensor, k: int) -> tuple[Tensor, Tensor | None]:
    """Eigenvalues in float64, descending, and for k > 0 the top-k basis in the dtype of C."""
    exact = C.double()  # in float32 the rounding of the leading one turns the directions of 1e-3 of it and less
    if k == 0:
        return torch.linalg.eigvalsh(exact).flip(0), None
    values, vectors = torch.linalg.eigh(exact)
    return values.flip(0), vectors[:, -k:].flip(1).to(C.dtype)


def _rounding(values: Tensor, dtype: torch.dtype) -> float:
    """Up to where eigenvalues of a Gram matrix are rounding: none is negative but by it, and it has no sign."""
    return max(-2 * float(values[-1]), torch.finfo(dtype).eps / 8 * float(values[0]))


def _basis_of_residual(run: Run, snapshot: Snapshot, layer: Layer, S: Tensor | None, k: int) -> Tensor | None:
    if layer.residual_side in {None, layer.side}:
        return S
    C = run.gram_of(snapshot, layer.name, layer.residual_side)
    return None if C is None else _eigh(C, min(k, C.shape[0]))[1]


def narrow(S: Tensor, rank: int) -> Tensor:
    """The first ``rank`` columns of a basis, all of them where it has fewer, in float64."""
    return S[:, :rank].to(torch.float64)
