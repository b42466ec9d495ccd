"""The orthonormal cosine transform of columns, and its inverse: scipy's on the CPU, by torch's FFT elsewhere.

Legend: x (m, b) columns; ``C (m, m)`` with ``C_ki = sqrt(2/m) cos(pi k (2i + 1) / 2m)``, its first row over
``sqrt(2)``: the DCT-II, ``C C^T = I``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def dct(x: Tensor) -> Tensor:
    """``C x`` in ``O(m log m)`` per column.

    Args:
        x: Columns (m, b), float32 or float64; lost.

    Returns:
        The transformed columns, in the memory of x or in another.
    """
    return _by_scipy("dct", x) if x.device.type == "cpu" else dct_by_fft(x)


def idct(x: Tensor) -> Tensor:
    """``C^T x``, the inverse of `dct`; arguments and result are alike."""
    return _by_scipy("idct", x) if x.device.type == "cpu" else idct_by_fft(x)


def _by_scipy(name: str, x: Tensor) -> Tensor:
    import scipy.fft

    transform = getattr(scipy.fft, name)
    return torch.from_numpy(
        transform(x.numpy(), axis=0, norm="ortho", overwrite_x=True, workers=torch.get_num_threads())
    )


def dct_by_fft(x: Tensor) -> Tensor:
    """`dct` by a real FFT of m numbers: even entries, then odd ones backwards (Makhoul 1980).

    Args:
        x: Columns (m, b).

    Returns:
        The transformed columns.
    """
    m = x.shape[0]
    Z = torch.fft.rfft(torch.cat([x[::2], x[1::2].flip(0)]), dim=0) * _turns(m, -1, x)
    X = torch.cat([Z.real, -Z.imag[1 : (m + 1) // 2].flip(0)]).mul_(math.sqrt(2 / m))
    X[0] *= math.sqrt(0.5)
    return X


def idct_by_fft(x: Tensor) -> Tensor:
    """The inverse of `dct_by_fft`.

    Args:
        x: Columns (m, b).

    Returns:
        The transformed columns.
    """
    m = x.shape[0]
    C = x * math.sqrt(m / 2)
    C[0] *= math.sqrt(2)
    mirrored = torch.cat([torch.zeros_like(C[:1]), C[m - m // 2 :].flip(0)])  # C_m = 0, C_(m-1), ...
    v = torch.fft.irfft(torch.complex(C[: m // 2 + 1], -mirrored) * _turns(m, 1, x), n=m, dim=0)
    half, out = (m + 1) // 2, torch.empty_like(C)
    out[::2], out[1::2] = v[:half], v[half:].flip(0)
    return out


def _turns(m: int, sign: int, like: Tensor) -> Tensor:
    """``exp(+-i pi k / 2m)`` for ``k <= m/2``, as a column."""
    angles = torch.arange(m // 2 + 1, dtype=torch.float64, device=like.device) * (sign * math.pi / (2 * m))
    turns = torch.polar(torch.ones_like(angles), angles)[:, None]
    return turns if like.dtype == torch.float64 else turns.to(torch.complex64)
