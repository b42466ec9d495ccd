"""Parameters of any layout and size: right, or refused in one line."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import subspace_lab as sl

CONVOLUTION = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
X = torch.randn(12, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Holder(nn.Module):
    """A weight of any form, and others beside it."""

    def __init__(self, *parameters: Tensor) -> None:
        super().__init__()
        for name, parameter in zip(("w", "beside"), parameters, strict=False):
            setattr(self, name, nn.Parameter(parameter))


def value_of(w: Tensor, beside: Tensor | None, x: Tensor) -> Tensor:
    out = torch.tanh(x @ w.flatten(1).T) if w.ndim > 1 else torch.tanh(x[:, :1] * w)
    more = 0.0 if beside is None else 0.3 * beside.square().sum()
    return (out - 1).square().mean() + more * out.square().mean()


def loss(model: Holder, x: Tensor) -> Tensor:
    return value_of(model.w, getattr(model, "beside", None), x)


WEIGHTS = {
    "channels last": CONVOLUTION.to(memory_format=torch.channels_last),
    "strided": torch.stack([CONVOLUTION.flatten(1)] * 2, -1)[..., 0],
    "transposed": CONVOLUTION.flatten(1).T.contiguous().T,
    "expanded": CONVOLUTION[:1].flatten(1).expand(5, 12),
    "one row": CONVOLUTION[:1].flatten(1),
    "one element": torch.tensor([0.4], dtype=torch.float64),
    "no dimension": torch.tensor(0.7, dtype=torch.float64),
}


@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("shape", [None, (), (1, 1), (2, 1), (0, 3)], ids=str)
def test_the_hessian_is_that_of_torch_for_contiguous_weights(weight, shape):
    others = [] if shape is None else [torch.full(shape, 0.5, dtype=torch.float64)]
    model = Holder(weight, *others)
    sizes = [weight.numel(), *(other.numel() for other in others)]

    def of_flat(flat: Tensor) -> Tensor:
        parts = torch.split(flat, sizes)
        return value_of(parts[0].view(weight.shape), parts[1].view(shape) if others else None, X)

    flat = torch.cat([part.reshape(-1) for part in (weight, *others)])
    H = torch.autograd.functional.hessian(of_flat, flat)
    values = torch.linalg.eigvalsh(H).flip(0)
    k = 1 if weight.stride()[:1] == (0,) else min(3, len(values))  # equal rows, equal eigenvalues: no order to compare
    found = sl.analysis.loss_curvature(model, loss, X, k=k, tol=1e-8, rank=1)
    assert found.eigenvalues["eigenvalue"].tolist() == pytest.approx(values[:k].tolist(), rel=1e-5, abs=1e-7)
    g = torch.func.grad(of_flat)(flat)
    (row,) = found.summary.to_dict("records")
    assert row["gradient_norm"] == pytest.approx(float(g.norm()), rel=1e-6)
    assert row["rayleigh_gradient"] == pytest.approx(float(g @ H @ g / (g @ g)), rel=1e-5)
    noise = sl.analysis.noise(model, loss, X, rank=1).set_index("part")
    assert noise.loc["all", "parameters"] == len(flat)


def test_what_is_left_is_refused_in_one_line():
    plain = CONVOLUTION.flatten(1)
    cases = {
        "beside has no entries": (Holder(plain, torch.zeros(0, 4).double()), "beside"),
        "model has no entries": (Holder(torch.zeros(0, 12).double()), None),
        "beside is complex": (Holder(plain, torch.ones(3, dtype=torch.complex128)), None),
        "beside is complex, ": (Holder(plain, torch.ones(3, dtype=torch.complex128)), "b*"),
    }
    for match, (model, layers) in cases.items():
        for measure in (sl.analysis.hessian, sl.analysis.loss_curvature, sl.analysis.noise):
            with pytest.raises(ValueError, match=match) as caught:
                measure(model, loss, X, layers)
            assert "\n" not in str(caught.value)
    model = Holder(plain, torch.ones(3, dtype=torch.complex128))
    assert len(sl.analysis.hessian(model, lambda m, x: value_of(m.w, None, x), X, "w", k=1)) == 1


@pytest.mark.parametrize("make", [
    lambda: nn.Embedding(10, 4, sparse=True),
    lambda: nn.EmbeddingBag(10, 4, sparse=True),
])  # fmt: skip
def test_sparse_gradients(make):
    torch.manual_seed(0)
    model = nn.Sequential(make(), nn.Linear(4, 2))
    tokens = torch.randint(10, (12, 3))

    def of(model, tokens):
        return model(tokens).tanh().square().mean()

    for measure in (sl.analysis.hessian, sl.analysis.loss_curvature):
        with pytest.raises(ValueError, match=r"gradient of 0.weight is sparse.*sparse=False.*freeze"):
            measure(model, of, tokens, k=1)
    assert len(sl.analysis.hessian(model, of, tokens, "1.weight", k=1)) == 1
    sparse = sl.analysis.noise(model, of, tokens)
    model[0].sparse = False
    assert sparse["signal"].tolist() == pytest.approx(sl.analysis.noise(model, of, tokens)["signal"].tolist())
