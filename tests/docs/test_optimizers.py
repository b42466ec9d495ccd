"""The table of the optimizers against the parts, the bytes and the products of what is there."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from subspace_lab import optim
from subspace_lab.optim.rules import RULES
from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "concepts" / "optimizers.md").read_text(encoding="utf-8")
REFERENCE = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
M, N, R = 48, 80, 8


def rows(heading: str) -> dict[str, list[str]]:
    """The rows of the table under a heading, by the name in the first column."""
    text = PAGE[PAGE.index(f"## {heading}\n") + 3 :]
    lines = [line.strip() for line in text[: text.index("\n## ")].splitlines()]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]
    return {first.strip("`"): rest for first, *rest in cells}


METHODS = rows("The methods")
each_method = pytest.mark.parametrize("name", METHODS)


def value(formula: str) -> int:
    """A formula of m, n and r as mathematicians write it: 4(mr + 2nr), 2r³."""
    formula = formula.replace("²", "^2").replace("³", "^3")
    product = re.sub(r"(\d|\b|[mnr)])(?=[mnr(])", lambda match: match[1] + "*" if match[1] else "", formula)
    product = re.sub(r"(\^\d)\*?(?=[mnr(])", r"\1*", product).replace("^", "**")
    return int(eval(product, {"m": M, "n": N, "r": R}))


class Products(TorchDispatchMode):
    """Counts the multiply-adds of matrix products."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().partition("::")[2].partition(".")[0].rstrip("_")
        if name in {"mm", "mv", "addmm", "addmv"}:
            left, right = args[-2:]
            self.count += left.numel() * (math.prod(right.shape[1:]))
        return func(*args, **(kwargs or {}))


def products(name: str, interval: int) -> int:
    """Multiply-adds of the fourth step."""
    p = torch.nn.Parameter(torch.zeros(M, N))
    optimizer = getattr(optim, name)([{"params": [p], "rank": R}], update_interval=interval)
    for seed in range(4):
        p.grad = torch.randn(M, N, generator=torch.Generator().manual_seed(seed))
        with Products() as counted:
            optimizer.step()
    return counted.count


@pytest.mark.parametrize(
    ("formula", "expected"),
    [("4(mr + 2nr + 1)", 4 * (M * R + 2 * N * R + 1)), ("2r³", 2 * R**3), ("m²n + mr²", M * M * N + M * R * R),
     ("12nr", 12 * N * R), ("0", 0), ("8nr + 8r", 8 * N * R + 8 * R)],
)  # fmt: skip
def test_formulas_are_read_as_they_are_meant(formula: str, expected: int) -> None:
    assert value(formula) == expected


def test_all_methods_are_there() -> None:

    assert {"AdamW", *METHODS} == {method.__name__ for method in optim.METHODS.values()}
    assert set(rows("Three parts")) == set(RULES)


@each_method
def test_states(name: str) -> None:
    report = optim.memory_report({"layers.0.up.weight": (M, N)}, name, rank=R)
    assert report.optimizer == value(METHODS[name][3])


@each_method
def test_products(name: str) -> None:
    step, refresh = products(name, 1000), products(name, 1)
    assert (step, refresh - step) == (value(METHODS[name][4]), value(METHODS[name][5]))


@each_method
def test_parts(name: str) -> None:
    method = getattr(optim, name)
    if issubclass(method, optim.SubspaceAdam):
        assert tuple(METHODS[name][:3]) == method.parts


@each_method
def test_papers(name: str) -> None:
    """The number is the one in the docstrings of the method's file and in the reference."""
    import sys

    number = METHODS[name][7]
    assert f"arXiv {number}" in (sys.modules[getattr(optim, name).__module__].__doc__ or "")
    assert number in REFERENCE


@each_method
def test_every_method_has_its_limitations(name: str) -> None:
    section = PAGE[PAGE.index("**Of each method:**") :]
    assert re.search(rf"^- \*\*[^*]*\b{name}\b[^*]*\*\*: ", section, re.MULTILINE)
