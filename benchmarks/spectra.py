"""Singular spectra of a 60M LLaMA's gradients: by way of the Gram matrix, against an SVD layer by layer.

Gradients are those of one real backward pass at random initialization. Attention and MLP matrices count; the embedding
and the head, whose sides differ by a factor of 62, are listed beside them. `torch.linalg.svdvals` takes three times as
long for a 512 x 1376 matrix as for its transpose, so that it is timed both ways: on the oriented gradient (m <= n, what
the rest of this package calls G) and on the parameter's own shape.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from torch import Tensor

from benchmarks._llama import backward, build
from benchmarks._measure import alternate, compare, publish_result
from subspace_lab.numerics import default_side, gram, gram_singular_values, orient


def by_gram(G: Tensor) -> Tensor:
    return gram_singular_values(gram(G, default_side(*G.shape)))


def by_svd(G: Tensor) -> Tensor:
    return torch.linalg.svdvals(G)


def by_svd_oriented(G: Tensor) -> Tensor:
    return torch.linalg.svdvals(orient(G, default_side(*G.shape)))


def shape_class(name: str, G: Tensor) -> str:
    if "proj" not in name:
        return "embedding_and_head"
    return "square" if G.shape[0] == G.shape[1] else "wide"


def energy_error(G: Tensor) -> float:
    """Largest error over all ranks of the energy fraction, against an SVD in float64."""
    fractions = [sigma.double().square().cumsum(0) for sigma in (by_gram(G), torch.linalg.svdvals(G.double()))]
    return float((fractions[0] / fractions[0][-1] - fractions[1] / fractions[1][-1]).abs().max())


def measure(groups: dict[str, list[Tensor]], repeats: int) -> dict[str, dict[str, dict[str, float]]]:
    """Times of all ways, group by group and summed over attention and MLP."""
    ways = {"svdvals_oriented": by_svd_oriented, "svdvals_own_shape": by_svd, "gram": by_gram}
    seconds = {}
    for name, matrices in groups.items():
        work = {way: lambda f=f, matrices=matrices: [f(G) for G in matrices] for way, f in ways.items()}
        seconds[name] = alternate(work, repeats)
    square, wide = seconds["square"], seconds["wide"]
    seconds["all"] = {way: [a + b for a, b in zip(square[way], wide[way], strict=True)] for way in square}
    return {
        name: {way: compare(times, way, "gram") for way in ways if way != "gram"} for name, times in seconds.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    model = build("llama-60m")
    backward(model)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None and p.ndim == 2}
    groups: dict[str, list[Tensor]] = {}
    for name, G in gradients.items():
        groups.setdefault(shape_class(name, G), []).append(G)
    errors = {name: energy_error(G) for name, G in gradients.items()}
    results = {
        "matrices": {name: len(matrices) for name, matrices in groups.items()},
        "energy_error_max": max(errors.values()),
        "energy_error_median": statistics.median(errors.values()),
    }
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results[f"threads_{threads}"] = measure(groups, arguments.repeats)
    one = results["threads_1"]
    targets = {
        "all layers oriented m <= n, times faster": (one["all"]["svdvals_oriented"]["ratio"], ">=", 3.5),
        "wide layers oriented m <= n, times faster": (one["wide"]["svdvals_oriented"]["ratio"], ">=", 5.0),
        "all layers in their own shape, times faster": (one["all"]["svdvals_own_shape"]["ratio"], ">=", 3.5),
        "error of energy fractions": (results["energy_error_max"], "<=", 1e-5),
    }
    publish_result(results, targets)


if __name__ == "__main__":
    main()
