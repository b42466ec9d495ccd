"""Linear algebra that knows nothing of training: spectra, Grassmann geometry, null references."""

from subspace_lab.numerics.grassmann import (
    null_overlap,
    overlap,
    principal_angles,
    subspace_error,
    subspace_error_tangent,
)
from subspace_lab.numerics.null_angles import null_cosines
from subspace_lab.numerics.nulls import null_isotropic, null_noise, null_noise_margin, null_spectrum, null_tangent
from subspace_lab.numerics.orientation import Side, default_side, flatten, gram, orient
from subspace_lab.numerics.spectra import (
    captured_energy,
    effective_rank,
    gram_eigh,
    gram_singular_values,
    participation_ratio,
    stable_rank,
)
from subspace_lab.numerics.spiked import spiked_energies
from subspace_lab.numerics.symmetric import pack_symmetric, packed_shape, unpack_symmetric

__all__ = [
    "Side",
    "captured_energy",
    "default_side",
    "effective_rank",
    "flatten",
    "gram",
    "gram_eigh",
    "gram_singular_values",
    "null_cosines",
    "null_isotropic",
    "null_noise",
    "null_noise_margin",
    "null_overlap",
    "null_spectrum",
    "null_tangent",
    "orient",
    "overlap",
    "pack_symmetric",
    "packed_shape",
    "participation_ratio",
    "principal_angles",
    "spiked_energies",
    "stable_rank",
    "subspace_error",
    "subspace_error_tangent",
    "unpack_symmetric",
]
