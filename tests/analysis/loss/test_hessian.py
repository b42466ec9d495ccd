"""Against closed forms, finite differences and another library."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

import subspace_lab as sl
from subspace_lab.analysis.loss.attention import twice_differentiable_attention
from subspace_lab.analysis.loss.blocks import select_blocks
from subspace_lab.analysis.loss.eigenpairs import largest_eigenpairs
from subspace_lab.analysis.loss.operator import HessianOperator, LossOnBatch
from tests.analysis.loss.problems import Quadratic, attending, llama, llama_loss, softmax_problem

EXACT = 1e-9


def operator_of(model, loss, batch, layers=None, micro_batch=None):
    (block,) = select_blocks(model, layers)
    return HessianOperator(LossOnBatch(model, loss, batch, micro_batch), block)


@pytest.mark.parametrize("size", [12, 200])  # formed whole, and by Lanczos
def test_quadratic(size):
    values = torch.linspace(-5, 4, size, dtype=torch.float64)  # the largest in absolute value is negative
    table = sl.analysis.hessian(Quadratic.of(values), Quadratic.loss, None, k=7, tol=1e-7)
    assert list(table.columns) == ["layer", "index", "eigenvalue", "residual", "converged"]
    assert table["index"].tolist() == list(range(7))
    assert table["eigenvalue"].to_numpy() == pytest.approx(values.flip(0)[:7].numpy(), abs=1e-6)
    assert table["converged"].all()
    assert (table["residual"] <= 4e-7).all()
    assert set(table["layer"]) == {"model"}


def test_all_eigenvalues_of_a_small_block():
    values = torch.tensor([3.0, 1.0, 0.0, -2.0])
    table = sl.analysis.hessian(Quadratic.of(values), Quadratic.loss, None, k=4)
    assert table["eigenvalue"].to_numpy() == pytest.approx(values.numpy(), abs=1e-6)


def test_fewer_directions_than_eigenvalues():
    """Of the zeros, too, as many as asked for: they converge because of the shift."""
    values = torch.cat([torch.tensor([9.0, 1.0]), torch.zeros(300)])
    table = sl.analysis.hessian(Quadratic.of(values), Quadratic.loss, None, k=6)
    assert table["eigenvalue"].to_numpy() == pytest.approx([9, 1, 0, 0, 0, 0], abs=1e-2)
    assert table["converged"].all()


def test_zero_hessian():
    table = sl.analysis.hessian(Quadratic.of(torch.zeros(300)), Quadratic.loss, None, k=3)
    assert table["eigenvalue"].tolist() == [0, 0, 0]
    assert table["converged"].all()


def test_negative_definite_at_a_critical_point():
    model = Quadratic.of(-torch.linspace(1, 3, 100))
    model.b.zero_()
    torch.nn.init.zeros_(model.w)
    table = sl.analysis.hessian(model, Quadratic.loss, None, k=3, tol=1e-6)
    expected = -torch.linspace(1, 3, 100)[:3].numpy()
    assert table["eigenvalue"].to_numpy() == pytest.approx(expected, abs=1e-5)


LARGE = torch.linspace(1, 30, 300, dtype=torch.float64)
TOPS = {
    "all negative": [-0.01, -0.02],
    "small above large": [0.05],
    "smaller above large": [1e-3, -0.5],
    "zero above large": [0.0],
    "rounding above large": [1e-14],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("k", [1, 3, 8])
@pytest.mark.parametrize("top", TOPS.values(), ids=TOPS)
def test_negative_eigenvalues_converge(top, k, dtype):
    """Where a share of the largest is all that ARPACK asks for, and below the rounding of products."""
    values = torch.cat([torch.tensor(top, dtype=torch.float64), -LARGE])
    model = Quadratic.of(values)
    model = Quadratic(model.H.to(dtype), model.b.to(dtype), model.w.detach().to(dtype))
    table = sl.analysis.hessian(model, model.loss, None, k=k)
    eps = torch.finfo(dtype).eps
    assert table["converged"].all()
    assert (table["residual"] <= max(1e-3 * abs(top[0]), 40 * 30 * eps)).all()
    assert table["eigenvalue"].to_numpy() == pytest.approx(values[:k].numpy(), abs=40 * 30 * eps + 1e-6)


def test_the_tolerance_is_a_share_of_the_largest_magnitude():
    """Too few products for lambda_0 to a share of itself; negative ones that are larger in magnitude set the scale."""
    values = torch.cat([torch.tensor([-0.01], dtype=torch.float64), -LARGE])
    model = Quadratic.of(values)
    settings = {"shift": 0.0, "like": model.w.detach(), "seed": 0}
    found = largest_eigenpairs(lambda v: model.H @ v, 301, 3, tol=1e-2, max_products=90, **settings)
    assert found.converged.tolist() == [bool(r <= 1e-2 * np.abs(found.values).max()) for r in found.residuals]
    made = []
    largest_eigenpairs(lambda v: made.append(0) or model.H @ v, 301, 3, tol=1e-6, max_products=70, **settings)
    assert len(made) < 70 + 2 * 12


def test_flags_are_by_the_largest_of_the_k_and_not_by_the_last():
    """Of searches that were ended at any time: some residuals lie between the shares of the two."""
    model = Quadratic.of(torch.cat([torch.tensor([50.0]), torch.linspace(0, 8, 200)]))
    settings = {"shift": 25.0, "like": model.w.detach(), "seed": 0, "tol": 1e-2}
    between = 0
    for products in range(20, 120, 10):
        found = largest_eigenpairs(lambda v: model.H @ v, 201, 5, max_products=products, **settings)
        assert found.converged.tolist() == (found.residuals <= 1e-2 * found.values[0]).tolist()
        between += int(((found.residuals > 1e-2 * found.values[-1]) & found.converged).sum())
    assert between


@pytest.mark.parametrize("micro_batch", [None, 5])
def test_linear_softmax(micro_batch):
    model, batch = softmax_problem()
    H = model.hessian(batch)
    operator = operator_of(model, model.loss, batch, micro_batch=micro_batch)
    products = torch.stack([operator.product(e) for e in torch.eye(len(H), dtype=torch.float64)])
    assert (products - H).abs().max() < EXACT
    table = sl.analysis.hessian(model, model.loss, batch, k=5, tol=1e-7, micro_batch=micro_batch)
    assert table["eigenvalue"].to_numpy() == pytest.approx(torch.linalg.eigvalsh(H).flip(0)[:5].numpy(), rel=1e-6)


@pytest.mark.parametrize("layers", [None, "qkv.weight", "norm.weight"])
def test_products_are_differences_of_gradients(layers):
    """Through attention, central differences in float64."""
    model, batch = attending()
    with twice_differentiable_attention(model):
        operator = operator_of(model, model.loss, batch, layers)
        v = torch.randn(operator.block.size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        found, step = operator.product(v), 1e-5
        gradients = []
        for move in (step, -2 * step):
            with torch.no_grad():
                for parameter, piece in zip(operator.block.parameters, operator.block.pieces(v), strict=True):
                    parameter.add_(piece, alpha=move)
            gradients.append(operator_of(model, model.loss, batch, layers).gradient())
    difference = (gradients[0] - gradients[1]) / (2 * step)
    assert (found - difference).norm() < 1e-7 * found.norm()


def test_micro_batches_give_the_same_product():
    model, batch = attending()
    with twice_differentiable_attention(model):
        operators = [operator_of(model, model.loss, batch, micro_batch=size) for size in (None, 1, 4)]
        v = torch.randn(operators[0].block.size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        whole, *cut = [operator.product(v) for operator in operators]
    for product in cut:
        assert (product - whole).norm() < 1e-13 * whole.norm()


def test_blocks_by_globs():
    """Each matching parameter by itself, vectors too, in the order of the model."""
    model, batch = attending()
    table = sl.analysis.hessian(model, model.loss, batch, ("norm.*", "qkv.weight"), k=3)
    assert list(table["layer"].unique()) == ["norm.weight", "norm.bias", "qkv.weight"]
    with twice_differentiable_attention(model):
        whole = operator_of(model, model.loss, batch)
        H = torch.stack([whole.product(e) for e in torch.eye(whole.block.size, dtype=torch.float64)])
    start = 0
    for name, parameter in model.named_parameters():
        block = H[start : start + parameter.numel(), start : start + parameter.numel()]
        start += parameter.numel()
        if name in set(table["layer"]):
            top = table[table["layer"] == name]["eigenvalue"]
            expected = torch.linalg.eigvalsh(block).flip(0)[:3].numpy()
            assert top.to_numpy() == pytest.approx(expected, abs=1e-3 * expected[0])


def test_another_library():
    """hessian-eigenthings, attending eagerly, as its own answer is otherwise an error."""
    import hessian_eigenthings as eigenthings

    model, batch = llama(torch.float64, attn_implementation="eager")
    operator = eigenthings.HessianOperator(model, [batch], llama_loss)
    settings = {"max_iter": 100, "tol": 1e-9, "reorthogonalize": True, "which": "LA", "seed": 0}
    theirs = eigenthings.lanczos(operator, k=4, **settings).eigenvalues
    ours = sl.analysis.hessian(model, llama_loss, batch, k=4, tol=1e-6)["eigenvalue"]
    assert ours.to_numpy() == pytest.approx(theirs.double().numpy(), rel=1e-5)


def test_dtypes_and_what_is_said():
    model, batch = llama()
    table = sl.analysis.hessian(model, llama_loss, batch, k=2, micro_batch=2)
    assert isinstance(table["layer"].dtype, pd.CategoricalDtype)
    assert [str(dtype) for dtype in table.dtypes[1:]] == ["int16", "float32", "float32", "bool"]
    assert table.attrs["attention"] == "math kernel of scaled_dot_product_attention"
    assert table.attrs["micro_batches"] == 3
    assert table.attrs["loss"] == pytest.approx(model(**batch).loss.item(), rel=1e-5)


def test_what_does_not_converge_is_returned_marked():
    values = torch.linspace(0, 1, 400, dtype=torch.float64)  # evenly spaced: hard
    table = sl.analysis.hessian(Quadratic.of(values), Quadratic.loss, None, k=5, tol=1e-8, max_products=30)
    assert len(table) == 5
    assert not table["converged"].any()
    assert (table["residual"] > 1e-8).all()
    assert (np.diff(table["eigenvalue"]) <= 0).all()
    assert 0.9 < table["eigenvalue"].iloc[0] < 1  # still the best that there was


def test_some_converge_and_some_do_not():
    values = torch.cat([torch.tensor([50.0, 40.0]), torch.linspace(0, 1, 400)])
    table = sl.analysis.hessian(Quadratic.of(values), Quadratic.loss, None, k=5, tol=1e-9, max_products=60)
    assert table["converged"].tolist() == [True, True, False, False, False]
    assert table["eigenvalue"].iloc[:2].tolist() == pytest.approx([50, 40], abs=1e-5)


@pytest.mark.parametrize(("max_products", "all_converge"), [(30, False), (200, True)])
def test_residuals_are_those_of_the_vectors(max_products, all_converge):
    """Measured with the formed Hessian; some and all of them within the tolerance."""
    model = Quadratic.of(torch.cat([torch.tensor([50.0, 40.0]), torch.linspace(0, 30, 100)]))
    settings = {"tol": 5e-3, "shift": 0.0, "max_products": max_products, "like": model.w, "seed": 0}
    found = largest_eigenpairs(lambda v: model.H @ v, 102, 5, **settings)
    errors = torch.linalg.vector_norm(model.H @ found.vectors - found.vectors * torch.tensor(found.values), dim=0)
    assert found.residuals == pytest.approx(errors.numpy(), rel=1e-5, abs=1e-11)
    assert found.converged.tolist() == [bool(error <= 5e-3 * found.values[0]) for error in errors]
    assert found.converged.any()
    assert found.converged.all() == all_converge
    assert (found.vectors.mT @ found.vectors - torch.eye(5)).abs().max() < EXACT


def test_the_same_seed_gives_the_same_numbers():
    model, batch = llama()
    tables = [sl.analysis.hessian(model, llama_loss, batch, k=2) for _ in range(2)]
    pd.testing.assert_frame_equal(*tables)


def test_weights_gradients_and_generators_are_left_alone():
    model, batch = llama()
    before = [parameter.clone() for parameter in model.parameters()]
    state = torch.get_rng_state()
    with torch.no_grad():  # as it may be called in an evaluation
        sl.analysis.loss_curvature(model, llama_loss, batch, k=2)
    assert all(map(torch.equal, before, model.parameters()))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(state, torch.get_rng_state())
