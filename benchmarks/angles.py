"""Principal angles of 512 x 128 bases against `scipy.linalg.subspace_angles`: how fast, and how exact."""

from __future__ import annotations

import argparse

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from benchmarks._measure import alternate, compare, publish_result, require_one_thread
from subspace_lab.numerics import principal_angles

M, R, NUM_SEEDS = 512, 128, 5


def planted(angles: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two bases with given principal angles, each in coordinates of its own."""
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((M, 2 * R)))[0]
    V1, V2 = (np.linalg.qr(rng.standard_normal((R, R)))[0] for _ in range(2))
    return Q[:, :R] @ V1, (Q[:, :R] * np.cos(angles) + Q[:, R:] * np.sin(angles)) @ V2


def consecutive(seed: int, drift: float) -> tuple[np.ndarray, np.ndarray]:
    """Top-r bases of a matrix with decaying spectrum and of the same one a little later."""
    rng = np.random.default_rng(seed)
    G = rng.standard_normal((M, M)) * np.arange(1, M + 1) ** -0.5
    return tuple(np.linalg.svd(G + scale * rng.standard_normal((M, M)))[0][:, :R] for scale in (0, drift))


def by_arccos(S1: Tensor, S2: Tensor) -> Tensor:
    return torch.linalg.svdvals(S1.mT @ S2).clamp(max=1).arccos()


def relative_error(found: np.ndarray, angles: np.ndarray) -> float:
    return float(np.max(np.abs(np.sort(found) - angles) / angles))


def max_errors(largest: float) -> dict[str, float]:
    """Largest relative error over planted angles from 1e-8 rad on, and over seeds."""
    angles = np.geomspace(1e-8, largest, R)
    errors: dict[str, list[float]] = {"ours": [], "scipy": [], "arccos": []}
    for seed in range(NUM_SEEDS):
        A, B = planted(angles, seed)
        pair = torch.from_numpy(A), torch.from_numpy(B)
        errors["ours"].append(relative_error(principal_angles(*pair).numpy(), angles))
        errors["scipy"].append(relative_error(scipy.linalg.subspace_angles(A, B), angles))
        errors["arccos"].append(relative_error(by_arccos(*pair).numpy(), angles))
    return {name: max(values) for name, values in errors.items()}


def speeds(drift: float, repeats: int) -> dict[str, float]:
    """Seconds of both and their ratio."""
    S1, S2 = consecutive(0, drift)
    T1, T2 = torch.from_numpy(S1), torch.from_numpy(S2)
    work = {"scipy": lambda: scipy.linalg.subspace_angles(S1, S2), "ours": lambda: principal_angles(T1, T2)}
    return compare(alternate(work, repeats, warm=3), "scipy", "ours")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=31)
    arguments = parser.parse_args()
    require_one_thread()
    speed, close = (speeds(drift, arguments.repeats) for drift in (0.02, 0.002))
    errors = {f"1e-8 to {largest} rad": max_errors(largest) for largest in (0.7, 1.0)}
    results = {
        "shape": [M, R],
        "dtype": "float64",
        "speed": speed,
        "speed_with_an_angle_below_0.3_degrees": close,
        "max_relative_error": errors,
        "seeds": NUM_SEEDS,
    }
    targets = {
        "times faster than scipy": (speed["ratio"], ">=", 4.0),
        "relative error, 1e-8 to 1 rad": (errors["1e-8 to 1.0 rad"]["ours"], "<=", 1e-6),
    }
    publish_result(results, targets)


if __name__ == "__main__":
    main()
