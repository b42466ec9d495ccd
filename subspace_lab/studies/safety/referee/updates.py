"""Where updates go: overlaps of the spaces that alignment, a clean tuning and a poisoned one change.

Legend: ``V = W_aligned - W_base``; ``D_u`` and ``D_h`` what tuning on clean and on poisoned rows changed; ``U (m, r)``
orthonormal basis of the left singular vectors of an oriented update that hold a share of its energy.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from subspace_lab.capture.layers import Layer, select_layers
from subspace_lab.numerics import gram, gram_eigh, null_overlap, overlap, principal_angles

if TYPE_CHECKING:
    import pandas as pd

SHARE = 0.9  # of the energy of an update
COLUMNS = (
    "layer", "depth", "kind", "pair", "rank_a", "rank_b", "m", "overlap", "null_overlap", "min_deg", "mean_deg",
)  # fmt: skip
_ORTHONORMAL = 1e-3  # what the columns of a basis may be off by, in half precision too


@dataclass(frozen=True)
class PairOverlap:
    """How two subspaces lie to each other.

    Attributes:
        overlap: Mean squared cosine of the angles, in [0, 1].
        null_overlap: Its mean over random subspaces of these dimensions, ``max(r1, r2) / m``.
        angles_deg: The ``min(r1, r2)`` principal angles in degrees, ascending.
    """

    overlap: float
    null_overlap: float
    angles_deg: tuple[float, ...]


def pair(U: Float[Tensor, "m r1"], V: Float[Tensor, "m2 r2"]) -> PairOverlap:
    """Overlap and angles of two subspaces, with the overlap that random ones have.

    ``||U^T V||_F^2 / min(r1, r2)``, to be compared with its mean over random subspaces, ``max(r1, r2) / m``
    (arXiv 2505.14185): spaces of half the dimensions share half of everything with any other.

    Args:
        U: Orthonormal basis (m, r1).
        V: Orthonormal basis (m, r2), of another dimension or the same.

    Returns:
        The overlap, its null, and the angles.

    Raises:
        ValueError: If a basis is not a matrix with orthonormal columns, or the bases are not of the same m.

    >>> pair(torch.eye(4)[:, :1], torch.eye(4)[:, 1:3])
    PairOverlap(overlap=0.0, null_overlap=0.5, angles_deg=(90.0,))
    """
    for name, basis in (("U", U), ("V", V)):
        _check_orthonormal(name, basis)
    U, V = U.double(), V.double()
    angles = principal_angles(U, V).rad2deg()
    return PairOverlap(overlap(U, V), null_overlap(U.shape[1], V.shape[1], U.shape[0]), tuple(angles.tolist()))


def _check_orthonormal(name: str, basis: Tensor) -> None:
    if basis.ndim != 2 or basis.shape[1] == 0:
        raise ValueError(f"{name} is a basis (m, r) with at least one column, got the shape {tuple(basis.shape)}")
    exact = basis.double()
    off = float((exact.mT @ exact - torch.eye(basis.shape[1], dtype=torch.float64, device=basis.device)).abs().max())
    if not off < _ORTHONORMAL:
        raise ValueError(
            f"the columns of {name} are not orthonormal (off by {off:.2g}); take torch.linalg.qr({name}).Q"
        )


def update_overlaps(
    aligned: Mapping[str, Tensor],
    *,
    base: Mapping[str, Tensor] | None = None,
    utility: Mapping[str, Tensor] | None = None,
    harm: Mapping[str, Tensor] | None = None,
    share: float = SHARE,
    rank: int | None = None,
) -> pd.DataFrame:
    """Overlaps of what alignment changed with what a clean and a poisoned tuning changed, matrix by matrix.

    Pairs: ``alignment-utility``, ``alignment-harm`` and ``utility-harm``, those of the models that are given. That
    harm lies where alignment did says something only beside utility, and beside the null: the claim that safety lives
    in a subspace of its own is the harm pair minus the utility pair.

    Args:
        aligned: Weights of the aligned model by canonical name, adapters merged.
        base: Those of the model that was aligned, with the same names.
        utility: Those of the aligned model tuned on the clean task.
        harm: Those of the aligned model tuned on poisoned rows.
        share: Of an update's energy that its basis holds, in (0, 1]; ranks then differ.
        rank: Dimensions of all bases instead, m where a matrix has fewer.

    Returns:
        One row per matrix and pair: layer, depth, kind, pair, rank_a, rank_b, m, overlap, null_overlap, min_deg,
        mean_deg. A matrix that one of the two left as it was has no row.

    Raises:
        ValueError: If names or shapes differ, or `share` or `rank` is out of its range.
    """
    updates = {} if base is None else {"alignment": _difference("aligned", aligned, "base", base)}
    for name, tuned in (("utility", utility), ("harm", harm)):
        if tuned is not None:
            updates[name] = _difference(name, tuned, "aligned", aligned)
    return overlap_table(updates, share=share, rank=rank)


def overlap_table(
    matrices: Mapping[str, Mapping[str, Tensor]], *, share: float = SHARE, rank: int | None = None
) -> pd.DataFrame:
    """Overlaps of the top spaces of several sets of matrices, in all pairs of sets.

    Args:
        matrices: Name of a set -> name of a parameter -> tensor; of tensors with fewer than two dimensions none is
            looked at.
        share: Of a matrix' energy that its basis holds, in (0, 1].
        rank: Dimensions of all bases instead.

    Returns:
        The table of `update_overlaps`; pairs are called ``first-second``.

    Raises:
        ValueError: If `share` or `rank` is out of its range.
    """
    import pandas as pd

    if not 0 < share <= 1:
        raise ValueError(f"a share of energy lies in (0, 1], got {share:g}")
    if rank is not None and rank < 1:
        raise ValueError(f"a basis has at least 1 dimension, got rank={rank}")
    rows = []
    first = next(iter(matrices.values()), None)
    for layer in () if first is None else select_layers(_skeleton(first)):
        bases = {
            name: basis
            for name, tensors in matrices.items()
            if (basis := _basis(_part(layer, tensors), layer, share, rank)) is not None
        }
        for (one, U), (other, V) in itertools.combinations(bases.items(), 2):
            found = pair(U, V)
            rows.append({
                "layer": layer.name, "depth": layer.depth, "kind": layer.kind, "pair": f"{one}-{other}",
                "rank_a": U.shape[1], "rank_b": V.shape[1], "m": U.shape[0],
                "overlap": found.overlap, "null_overlap": found.null_overlap,
                "min_deg": found.angles_deg[0], "mean_deg": sum(found.angles_deg) / len(found.angles_deg),
            })  # fmt: skip
    return pd.DataFrame(rows, columns=list(COLUMNS))


def pooled(table: pd.DataFrame, by: str | list[str]) -> pd.DataFrame:
    """Means over the matrices of every pair at a depth or of a kind.

    Args:
        table: From `update_overlaps`, with further columns (a hash, a seed) or without.
        by: ``depth`` or ``kind``, with those further columns that are to be kept apart.

    Returns:
        `by`, pair, matrices (how many), and the means of overlap, null_overlap, min_deg and mean_deg.
    """
    keys = [*([by] if isinstance(by, str) else by), "pair"]
    groups = table.groupby(keys, observed=True, sort=False)
    means = groups[["overlap", "null_overlap", "min_deg", "mean_deg"]].mean()
    means.insert(0, "matrices", groups.size())
    return means.reset_index()


def _difference(
    name: str, after: Mapping[str, Tensor], before_name: str, before: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """What changed, by name."""
    if odd := sorted(set(after) ^ set(before)):
        raise ValueError(f"{name} and {before_name} are not weights of one model: only one of them has {odd[0]}")
    found = {}
    for key, tensor in after.items():
        if tensor.shape != before[key].shape:
            raise ValueError(
                f"{key} is {tuple(tensor.shape)} in {name} and {tuple(before[key].shape)} in {before_name}"
            )
        if tensor.is_floating_point():
            found[key] = tensor.float() - before[key].float() if tensor.itemsize < 4 else tensor - before[key]
    return found


def _skeleton(tensors: Mapping[str, Tensor]) -> nn.Module:
    """A model without weights whose parameters have these names, for depth, kind and side of each."""
    root = nn.Module()
    for name, tensor in tensors.items():
        module = root
        *path, last = name.split(".")
        for part in path:
            if part not in dict(module.named_children()):
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        module.register_parameter(last, nn.Parameter(torch.empty(tensor.shape, device="meta")))
    return root


def _part(layer: Layer, tensors: Mapping[str, Tensor]) -> Tensor | None:
    """The matrix of a layer, None where a set does not have it."""
    name = layer.name if layer.index is None else layer.name.rpartition("[")[0]
    tensor = tensors.get(name)
    return None if tensor is None else layer.part_of(tensor).flatten(1)


def _basis(matrix: Tensor | None, layer: Layer, share: float, rank: int | None) -> Tensor | None:
    """The top left singular vectors (m, r) of a matrix that is not zero."""
    if matrix is None or not bool(matrix.any()):
        return None
    C = gram(matrix.detach(), layer.side)
    energies, vectors = gram_eigh(C, C.shape[0])
    if rank is None:
        held = energies.cumsum(0) / energies.sum()
        rank = int((held < share * (1 - 1e-12)).sum()) + 1
    return vectors[:, :rank]
