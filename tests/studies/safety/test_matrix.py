"""The functions of matrices against golden values, literal twins on random inputs, and finite differences."""

import numpy as np
import pytest
import torch

from subspace_lab.studies.safety import matrix
from tests.studies.safety import literal

V = torch.tensor([[1.0, 2], [3, 4]], dtype=torch.float64)
D = torch.tensor([[1.0, -1], [0, 1]], dtype=torch.float64)
SHAPES = [(4, 4), (3, 6), (7, 4)]


def t(values):
    return torch.tensor(values, dtype=torch.float64)


def drawn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def close(found, wanted, atol=1e-9):
    torch.testing.assert_close(found, torch.as_tensor(wanted, dtype=torch.float64), rtol=0, atol=atol)


def numerical(f, X, h=1e-5):
    """Central differences, entry by entry."""
    found = torch.zeros_like(X)
    for at in np.ndindex(*X.shape):
        step = torch.zeros_like(X)
        step[at] = h
        found[at] = (f(X + step) - f(X - step)) / (2 * h)
    return found


def test_the_map_of_safe_lora_is_no_projector_and_scales_with_v():
    found = matrix.safelora(D, V)
    assert found.is_projected
    assert found.cosine == pytest.approx(0.3860440161, abs=1e-9)
    close(found.update, [[0.9128709292, 1.095445115], [2.0083160442, 2.5560386017]])
    assert found.idempotence_error == pytest.approx(4.4527305631, abs=1e-9)
    close(matrix.projector(10 * V), 10 * matrix.projector(V))
    assert found.gain == pytest.approx(literal.norm(found.projected) / literal.norm(D), abs=1e-12)


def test_the_map_on_the_first_directions_is_a_projector():
    C = matrix.projector(V, kind="topk", k=1)
    assert C.trace().item() == pytest.approx(1, abs=1e-12)
    close(C @ C, C, 1e-12)
    found = matrix.safelora(D, V, kind="topk", k=1)
    assert found.cosine == pytest.approx(0.3758206707, abs=1e-9)
    assert found.idempotence_error < 1e-12
    assert found.gain <= 1
    close(matrix.projector(10 * V, kind="topk", k=1), C, 1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("tau", [-1.0, 0.3, 1.0])
def test_safe_lora_is_its_literal_twin(shape, tau):
    update, changed = drawn(*shape), drawn(*shape, seed=1)
    for kind, C in (
        ("frobenius", literal.frobenius_map(changed.numpy())),
        ("topk", literal.topk_map(changed.numpy(), 2)),
    ):
        close(matrix.projector(changed, kind, 2), C)
        close(matrix.safelora(update, changed, tau, kind, 2).update, literal.safelora(update.numpy(), C, tau))


def test_an_update_is_left_alone_above_tau_and_projected_at_tau():
    cosine = matrix.safelora(D, V).cosine
    assert torch.equal(matrix.safelora(D, V, tau=cosine - 1e-9).update, D)
    assert matrix.safelora(D, V, tau=cosine).is_projected


def test_what_alignment_did_not_change_has_no_direction():
    with pytest.raises(ValueError, match="did not change this matrix"):
        matrix.projector(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="kind must be one of 'frobenius', 'topk', got 'svd'"):
        matrix.projector(V, kind="svd")


def test_the_penalty_of_asft_and_its_gradient():
    C, F = matrix.projector(V), matrix.factor(V)
    update = D.clone().requires_grad_()
    penalty = matrix.asft_penalty(update, C)
    penalty.backward()
    golden = [[8.0818496166, 5.8848862066], [13.9667358233, 19.5091789266]]
    assert penalty.item() == pytest.approx(10.8530711683, abs=1e-9)
    close(update.grad, golden)
    close(matrix.asft_gradient(D, F), golden)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["frobenius", "topk"])
def test_the_gradient_of_asft_by_finite_differences_of_the_twin(shape, kind):
    update, changed = drawn(*shape), drawn(*shape, seed=1)
    C = literal.frobenius_map(changed.numpy()) if kind == "frobenius" else literal.topk_map(changed.numpy(), 2)
    close(matrix.asft_penalty(update, t(C)), literal.asft_penalty(update.numpy(), C))
    wanted = numerical(lambda X: literal.asft_penalty(X.numpy(), C), update)
    close(matrix.asft_gradient(update, matrix.factor(changed, kind, 2)), wanted, 1e-6)


def test_lox_in_the_first_direction_and_in_all():
    close(matrix.lox(V, 1, 1.0), [[1.2735737131, 1.8072073528], [2.8789792277, 4.0852856614]])
    close(matrix.lox(V, 2, 0.5), 0.5 * V, 1e-12)
    close(matrix.lox(V, 99, 2.0), 2 * V, 1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_lox_is_its_literal_twin(shape):
    changed = drawn(*shape)
    close(matrix.lox(changed, 2, 1.5), literal.lox(changed.numpy(), 2, 1.5))


def test_spf_removes_the_first_directions_of_a_matrix_in_conflict():
    G_user, G_safety = t([[-2, 3], [1, 2]]), t([[2, 0], [0, 1]])
    found = matrix.spf(G_user, G_safety, 1)
    close(found, [[0, 0], [1, 2]], 1e-12)
    assert 1 - (literal.norm(found) / literal.norm(G_user)) ** 2 == pytest.approx(13 / 18, abs=1e-12)
    close(matrix.without(found, matrix.left_basis(G_safety, 1)), found, 1e-12)
    close(matrix.spf(G_user, G_safety, 2), torch.zeros(2, 2), 1e-12)
    assert torch.equal(matrix.spf(-G_user, G_safety, 1), -G_user)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sign", [1, -1])
def test_spf_is_its_literal_twin(shape, sign):
    G_user, G_safety = sign * drawn(*shape), drawn(*shape, seed=1)
    close(matrix.spf(G_user, G_safety, 2), literal.spf(G_user.numpy(), G_safety.numpy(), 2))


def test_antidote_zeros_the_entries_that_are_used_most():
    W, norms = t([[1, -4, 3, 0.25], [3, 1, -1, 2]]), t([2, 0.5, 1, 4])
    close(matrix.antidote(W, norms, 0.25), [[1, -4, 0, 0.25], [3, 1, -1, 0]], 0)
    assert torch.equal(matrix.antidote(W, norms, 0.2), W)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.99])
def test_antidote_is_its_literal_twin_and_zeros_a_whole_number_a_row(share):
    W, norms = drawn(5, 13), drawn(13, seed=1).abs()
    found = matrix.antidote(W, norms, share)
    close(found, literal.antidote(W.numpy(), norms.numpy(), share), 0)
    assert (found == 0).sum(1).tolist() == [int(share * 13)] * 5


X = t([[1, 0, 1], [0, 2, 1], [1, 1, 0], [0, 0, 1]])
UPDATE = t([[1, -1, 0.5], [0.2, 0.3, -2]])


def test_safe_delta_keeps_the_longest_prefix_within_the_budget():
    H, aligned = 2 * X.T @ X / 4, torch.zeros(2, 3, dtype=torch.float64)
    wanted = [[1, -0.0917069323, 0.5], [0.2, -0.0183413865, -0.0538408441]]
    close(matrix.safedelta(aligned, UPDATE, H, 1.2, 0.01), wanted)
    damped = H + 0.01 * H.diagonal().mean() * torch.eye(3, dtype=torch.float64)
    costs = [1 / np.linalg.inv(damped.numpy()[j:, j:])[0, 0] for j in range(3)]
    close(t(costs), [0.8362110903, 1.8573260073, 1.5166666667])


def test_safe_delta_without_a_budget_is_aligned_and_with_all_of_it_tuned():
    H, aligned = 2 * X.T @ X / 4, drawn(2, 3)
    assert torch.equal(matrix.safedelta(aligned, aligned + UPDATE, H, 0.0, 0.01), aligned)
    assert torch.equal(matrix.safedelta(aligned, aligned + UPDATE, H, 1e9, 0.01), aligned + UPDATE)


@pytest.mark.parametrize("s", [0.5, 3.0, 8.0])
def test_safe_delta_is_its_literal_twin(s):
    aligned, inputs = drawn(4, 6), drawn(9, 6, seed=1)
    tuned = aligned + drawn(4, 6, seed=2)
    H = 2 * inputs.T @ inputs / 9
    found = matrix.safedelta(aligned, tuned, H, s, 0.01)
    close(found, literal.safedelta(aligned.numpy(), tuned.numpy(), H.numpy(), s, 0.01))
    assert not torch.equal(found, aligned)
    assert not torch.equal(found, tuned)


def test_what_safe_delta_makes_up_is_the_best_for_the_outputs_where_the_first_columns_are_kept():
    inputs, update = drawn(9, 3, seed=1), t([[0.1, 5.0, 5.0]])
    H = 2 * inputs.T @ inputs / 9
    H[0, 0] = 1e-2 + (H[0, 1:] @ torch.linalg.solve(H[1:, 1:], H[1:, 0]))  # the first column is the cheapest
    found = matrix.safedelta(torch.zeros_like(update), update, H, 0.5, 1e-9)
    assert found[0, 0] == update[0, 0]
    wanted = -torch.linalg.solve(H[1:, 1:], H[1:, 0]) * update[0, 0]
    close(found[0, 1:], wanted, 1e-7)


def test_safe_delta_refuses_inputs_that_say_nothing():
    with pytest.raises(ValueError, match="zero or not finite"):
        matrix.safedelta(UPDATE, UPDATE, torch.zeros(3, 3), 1.0, 0.01)


def test_mmd_of_two_samples():
    P, Q = t([[0, 0], [1, 0]]), t([[0, 1], [2, 2]])
    assert matrix.mmd(P, Q).item() == pytest.approx(3.1483146583, abs=1e-9)
    assert matrix.mmd(P, P).item() == pytest.approx(0, abs=1e-12)
    assert matrix.mmd(P[:1], P[:1]).item() == 0


def test_mmd_is_its_literal_twin_and_its_gradient_that_of_finite_differences():
    P, Q = drawn(4, 3), 1 + drawn(6, 3, seed=1)
    assert matrix.mmd(P, Q).item() == pytest.approx(literal.mmd(P.numpy(), Q.numpy()), abs=1e-9)
    moved = P.clone().requires_grad_()
    matrix.mmd(moved, Q).backward()
    close(moved.grad, numerical(lambda R: literal.mmd(R.numpy(), Q.numpy()), P), 1e-7)


def test_distances_have_all_digits_where_products_are_rounded():
    P, Q = 10 + drawn(6, 32).float(), 10 + drawn(8, 32, seed=1).float()
    wanted = matrix.mmd(P, Q)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(matrix.mmd(P, Q), wanted)


def test_tokens_that_are_likelier_than_before_count_less():
    difference, beta = [0.5, -0.5, 0.1, 1, -1, 2], [0.5, 2, 2, 2, 2, 0.1]
    golden = [0.8756469982, 1.4621171573, 0.9003320054, 0.238405844, 1.761594156, 0.9003320054]
    close(matrix.constrained_weights(t(difference), t(beta)), golden)
    close(matrix.constrained_weights(t([100.0, 0.0]), 2.0), [1e-3, 1], 0)
    random = drawn(50)
    close(matrix.constrained_weights(random, t([3.0] * 50)), literal.constrained_weights(random.numpy(), [3.0] * 50))
