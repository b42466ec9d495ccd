"""The gradients of defenses against golden values and literal twins, on parameters without a model."""

import numpy as np
import pytest
import torch

from subspace_lab.studies.safety.context import step_of
from subspace_lab.studies.safety.defenses.activations import perturbations
from subspace_lab.studies.safety.defenses.whole import inner
from subspace_lab.studies.safety.stages import chain, defense
from tests.studies.safety import literal
from tests.studies.safety.test_matrix import close, drawn, numerical, t

H = t([[2, 1, 0], [1, 3, 1], [0, 1, 4]])
b = t([1, -1, 0.5])
W = t([1, -1, 2])


def parameter(values):
    return torch.as_tensor(values, dtype=torch.float64).clone().requires_grad_()


def fixed(*gradients):
    """A loss with these gradients, whatever the weights are."""

    def made(parameters):
        return lambda: sum((g * p).sum() for g, p in zip(gradients, parameters, strict=True))

    return made


def step_with(parameters, user, safety=None, harm=None, **more):
    losses = {"user": user, "safety": safety, "harm": harm}
    return step_of(parameters, {kind: f(parameters) for kind, f in losses.items() if f is not None}, **more)


def quadratic(parameters):
    (w,) = parameters
    return lambda: w @ H @ w / 2 + b @ w


def test_safegrad_removes_what_is_against_safety_and_follows_safety():
    g_u, g_s = t([0, -2, 5]), t([-1, 1, -1])
    w = parameter([0, 0, 0])
    alone = defense("safegrad:rho=0").gradient(step_with([w], fixed(g_u), fixed(g_s)))[0]
    close(alone, [-7 / 3, 1 / 3, 8 / 3])
    assert inner([alone], [g_s]).item() == pytest.approx(0, abs=1e-12)
    close(defense("safegrad").gradient(step_with([w], fixed(g_u), fixed(g_s)))[0], [-10 / 3, 4 / 3, 5 / 3])


def test_safegrad_without_conflict_is_rehearsal_to_the_bit():
    w = parameter([0, 0, 0])
    for rho in (0, 0.7):
        step = step_with([w], fixed(t([1, 2, 3])), fixed(t([1, 1, -0.1])))
        assert torch.equal(
            defense(f"safegrad:rho={rho}").gradient(step)[0], defense(f"rehearsal:rho={rho}").gradient(step)[0]
        )


@pytest.mark.parametrize("seed", range(6))
def test_safegrad_looks_at_all_parameters_at_once(seed):
    shapes = [(3, 4), (5,), (2, 2)]
    g_u, g_s = ([drawn(*shape, seed=10 * seed + n + 5 * k) for n, shape in enumerate(shapes)] for k in (0, 1))
    parameters = [parameter(torch.zeros(shape)) for shape in shapes]
    found = defense("safegrad:rho=0.3").gradient(step_with(parameters, fixed(*g_u), fixed(*g_s)))
    wanted = literal.surgery([g.numpy() for g in g_u], [g.numpy() for g in g_s], 0.3)
    for one, other in zip(found, wanted, strict=True):
        close(one, other)


def test_a_safety_gradient_of_zero_changes_nothing():
    w = parameter([1, 2, 3])
    close(defense("safegrad").gradient(step_with([w], fixed(t([1, 2, 3])), fixed(t([0, 0, 0]))))[0], [1, 2, 3], 0)


def test_booster_is_the_hessian_along_the_harmful_gradient():
    w = parameter(W)
    step = step_with([w], fixed(t([0, 0, 0])), harm=quadratic)
    found = defense("booster").gradient(step)[0]
    g = H @ W + b
    close(found, [0.1916629695, 0.4152697672, 1.8527420385])
    close(found, 5 * 0.1 * H @ g / torch.linalg.norm(g), 1e-12)
    assert step.passes == 3
    assert torch.equal(w.detach(), W)


def test_panacea_ascends_where_booster_descends_and_ends_on_its_perturbation():
    w, state = parameter(W), {}
    step = step_with([w], fixed(t([0, 0, 0])), harm=quadratic, state=state)
    found = defense("panacea:lam=0.1").gradient(step)[0]
    g = H @ W + b
    close(found, [-0.0383325939, -0.0830539534, -0.3705484077])
    close(found, -0.1 * H @ g / torch.linalg.norm(g), 1e-12)
    close(state["e.0"], [0.255550626, -0.127775313, 0.9583148475])
    assert step.passes == 3


def test_panacea_keeps_the_perturbation_of_the_last_step_only():
    w, state = parameter(W), {}
    for index in range(3):
        assert not state
        defense("panacea").gradient(
            step_with([w], fixed(t([0, 0, 0])), harm=quadratic, state=state, index=index, total=3)
        )
    assert [*state] == ["e.0"]


@pytest.mark.parametrize("name", ["booster", "panacea"])
def test_a_harmful_gradient_of_zero_moves_nothing(name):
    w = parameter(W)
    found = defense(name).gradient(step_with([w], fixed(t([1, 2, 3])), harm=fixed(t([0, 0, 0]))))
    close(found[0], [1, 2, 3], 0)


def test_the_gradient_that_lisa_adds_is_the_distance_to_the_other_weights():
    w = parameter([1, -1, 2])
    made = defense("lisa:safety_steps=2:user_steps=3")
    zero = fixed(t([0, 0, 0]))
    found = made.gradient(step_with([w], zero, zero, state={"anchor.0": t([0, 1, 0])}, index=3, total=10))
    close(found[0], [1, -2, 2], 0)
    found = made.gradient(step_with([w], zero, zero, state={"anchor.0": t([0, 1, 0])}, index=3, total=40))
    close(found[0], [0, 0, 0], 0)


def test_lisa_takes_turns_and_keeps_the_weights_at_which_it_changed():
    safety, user = t([1, 0, 0]), t([0, 1, 0])
    w, state = parameter([0, 0, 0]), {}
    made, seen = defense("lisa:rho=0:safety_steps=2:user_steps=3:prox_after=0"), []
    for index in range(12):
        with torch.no_grad():
            w.fill_(index)
        step = step_with([w], fixed(user), fixed(safety), state=state, index=index, total=12)
        seen.append("s" if torch.equal(made.gradient(step)[0], safety) else "u")
        assert step.passes == 1
        turns = [0, *(at for at in (2, 5, 7, 10) if at <= index)]
        assert state.get("anchor.0", t([0, 0, 0])).tolist() == [turns[-1]] * 3
    assert "".join(seen) == "ssuuussuuuss"


@pytest.mark.parametrize(("total", "safety", "user"), [(150, 1, 9), (20000, 100, 900), (1000, 5, 45), (10, 1, 9)])
def test_the_turns_of_lisa_are_scaled_to_the_training(total, safety, user):
    made = defense("lisa")
    turns = [made._is_safety(index, total) for index in range(min(total, 2 * (safety + user)))]
    assert turns == ([True] * safety + [False] * user) * (len(turns) // (safety + user))


def test_spf_acts_on_matrices_in_conflict_and_refreshes_now_and_then():
    G_user, G_safety, bias = t([[-2, 3], [1, 2]]), t([[2, 0], [0, 1]]), t([-1, -1])
    parameters, state = [parameter(torch.zeros(2, 2)), parameter([0, 0]), parameter(torch.zeros(2, 2))], {}
    made, passes = defense("spf:k=1:every=3"), []
    for index in range(7):
        step = step_with(
            parameters,
            fixed(G_user, bias, -G_user),
            fixed(G_safety, -bias, G_safety),
            state=state,
            index=index,
            total=7,
        )
        found = made.gradient(step)
        close(found[0], [[0, 0], [1, 2]], 1e-12)
        close(found[1], bias, 0)
        close(found[2], -G_user, 0)
        passes.append(step.passes)
    assert passes == [2, 1, 1, 2, 1, 1, 2]


def test_asft_adds_the_gradient_of_its_penalty():
    V, D = t([[1, 2], [3, 4]]), t([[1, -1], [0, 1]])
    base, bias = drawn(2, 2), t([1, 2])
    aligned = [base + V, bias]
    parameters = [parameter(aligned[0] + D), parameter([5, 5])]
    step = step_with(
        parameters, fixed(t([[1, 1], [1, 1]]), t([1, 1])), base=[base, bias - 1], aligned=aligned, state={}
    )
    found = defense("asft:lam=2").gradient(step)
    close(found[0], 1 + 2 * t([[8.0818496166, 5.8848862066], [13.9667358233, 19.5091789266]]))
    close(found[1], [1, 1], 0)


def test_asft_on_the_first_directions_by_finite_differences():
    base, V, D = drawn(4, 3), drawn(4, 3, seed=1), drawn(4, 3, seed=2)
    w, zero = parameter(base + V + D), fixed(torch.zeros(4, 3, dtype=torch.float64))
    found = defense("asft:projector=topk:k=2").gradient(step_with([w], zero, base=[base], aligned=[base + V]))
    C = literal.topk_map(V.numpy(), 2)
    close(found[0], numerical(lambda X: literal.asft_penalty(X.numpy(), C), D), 1e-6)


def test_perturbations_have_their_norm_over_all_blocks():
    found = perturbations([t([3, 0]), t([0, 4])], 0.1)
    close(found[0], [0.06, 0], 1e-15)
    close(found[1], [0, 0.08], 1e-15)
    gradients = [drawn(2, 3, 4, seed=n) for n in range(3)]
    made = perturbations(gradients, 0.7)
    assert literal.norm(*[eps.numpy() for eps in made]) == pytest.approx(0.7, abs=1e-12)
    for eps, wanted in zip(made, literal.perturbations([g.numpy() for g in gradients], 0.7), strict=True):
        close(eps, wanted, 1e-12)
    assert not perturbations([torch.zeros(2)], 1.0)[0].any()


def test_the_blocks_of_t_vaccine_are_drawn_by_their_shares():
    p, made = t([0.1, 0.2, 0.3, 0.4]), defense("t_vaccine:blocks=1")
    drawn_blocks = [made.draw(p, seed, 20 * n)[0].item() for seed in range(40) for n in range(100)]
    shares = np.bincount(drawn_blocks, minlength=4) / len(drawn_blocks)
    assert np.abs(shares - p.numpy()).max() < 4 * (0.25 / len(drawn_blocks)) ** 0.5
    two = defense("t_vaccine:blocks=2").draw(p, 0, 0)
    assert len({*two.tolist()}) == 2
    assert torch.equal(two, defense("t_vaccine:blocks=2").draw(p, 0, 0))
    assert made.draw(t([0, 0, 1, 0]), 3, 0).tolist() == [2]
    assert defense("t_vaccine").draw(p, 0, 0).tolist() == [0, 1, 2, 3]


def test_surgery_sees_the_rehearsed_gradient_in_a_chain():
    g_u, g_s = t([0, -2, 5]), t([-1, 1, -1])
    from subspace_lab.studies.safety.chained import chain_gradient

    w = parameter([0, 0, 0])
    step = step_with([w], fixed(g_u), fixed(g_s))
    found = chain_gradient(chain("rehearsal+safegrad:rho=0:loss=ce"), step)
    close(found[0], literal.surgery([(g_u + g_s).numpy()], [g_s.numpy()], 0)[0])
