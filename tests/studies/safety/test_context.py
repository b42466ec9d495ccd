"""A step gives the gradients of closed forms, shifts weights and puts the very bits back, and notices changes."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from subspace_lab.studies.safety.chained import chain_gradient
from subspace_lab.studies.safety.context import StepContext, step_of
from subspace_lab.studies.safety.stages import Chain, Defense, chain, register_defense

H = torch.tensor([[2.0, 1, 0], [1, 3, 1], [0, 1, 4]], dtype=torch.float64)


def parameter(*values):
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def quadratic(w, counts=None):
    def loss():
        if counts is not None:
            counts.append(1)
        return w @ H @ w / 2

    return loss


@dataclass(frozen=True, kw_only=True)
class Doubled(Defense):
    """Twice the gradient; counts its calls."""

    stage = "train"

    def gradient(self, step):
        step.state["calls"] = step.state.get("calls", 0) + 1
        return [2 * g for g in step.user()]


@dataclass(frozen=True, kw_only=True)
class Careless(Defense):
    """Does what its option says, none of which is allowed."""

    stage = "train"
    how: str = ""

    def gradient(self, step):
        w = step.parameters[0]
        if self.how == "weights":
            with torch.no_grad():
                w += 1
        if self.how == "data":
            w.data += 1
        if self.how == "gradient":
            step.user()[0].mul_(2)
        if self.how == "short":
            return []
        if self.how == "shape":
            return [torch.zeros(2)]
        return step.user()


@dataclass(frozen=True, kw_only=True)
class FirstOnly(Defense):
    """Leaves the second parameter alone."""

    stage = "train"

    def gradient(self, step):
        return [step.user()[0], None]


@dataclass(frozen=True, kw_only=True)
class Ahead(Defense):
    """The user's gradient where a step of one along it leads."""

    stage = "train"

    def gradient(self, step):
        with step.at([-g for g in step.user()]):
            return step.user()


@pytest.fixture(scope="module", autouse=True)
def _registered():
    for name, cls in {"doubled": Doubled, "careless": Careless, "first_only": FirstOnly, "ahead": Ahead}.items():
        register_defense(f"test_{name}")(cls)


def test_a_gradient_is_computed_once_at_the_same_weights_and_afresh_at_shifted_ones():
    w, counts = parameter(1, -1, 2), []
    step = step_of([w], {"user": quadratic(w, counts)})
    bits, delta = w.detach().clone(), torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    assert torch.equal(step.user()[0], H @ bits)
    assert torch.equal(step.user()[0], H @ bits)
    assert step.passes == len(counts) == 1
    with step.at([delta]):
        torch.testing.assert_close(step.user()[0], H @ (bits + delta), rtol=0, atol=1e-14)
        with step.at([delta]):
            torch.testing.assert_close(step.user()[0], H @ (bits + 2 * delta), rtol=0, atol=1e-14)
        torch.testing.assert_close(step.user()[0], H @ (bits + delta), rtol=0, atol=1e-14)
        assert step.passes == 3
    assert torch.equal(w.detach(), bits)
    assert torch.equal(step.user()[0], H @ bits)
    assert step.passes == len(counts) == 3


def test_weights_that_are_not_finite_have_not_changed():
    w = parameter(float("nan"), 1, float("inf"))
    step = step_of([w], {"user": w.sum})
    assert step.user()[0].tolist() == [1, 1, 1]
    step.check()


def test_the_parameter_that_was_changed_is_named():
    parameters = [parameter(*range(40)), parameter(1, 2), parameter(3, 4)]
    step = StepContext(parameters, lambda *_: [sum(p.sum() for p in parameters)], names=["a", "b", "c"])
    parameters[1].data[1] = 5
    with pytest.raises(ValueError, match=r"^b was changed"):
        step.check()


def test_weights_are_put_back_when_something_fails_while_they_are_shifted():
    w = parameter(0.1, 0.2, 0.3)
    step, bits = step_of([w], {"user": quadratic(w)}), w.detach().clone()
    with pytest.raises(RuntimeError, match="fails"), step.at([torch.full_like(w, 1e9)]):
        raise RuntimeError("fails")
    assert torch.equal(w.detach(), bits)
    step.check()


def test_parts_of_a_batch_are_summed_and_are_one_pass():
    w = parameter(1, -1, 2)
    step = StepContext([w], lambda kind, loss: (share * (w @ H @ w) / 2 for share in (0.25, 0.75)))
    torch.testing.assert_close(step.user()[0], H @ w.detach(), rtol=0, atol=1e-14)
    assert step.passes == 1


def test_a_parameter_that_a_loss_does_not_depend_on_has_a_gradient_of_zeros():
    w, other = parameter(1, -1, 2), parameter(1, 1)
    assert torch.equal(step_of([w, other], {"user": quadratic(w)}).user()[1], torch.zeros(2, dtype=torch.float64))


def test_a_loss_of_model_and_batch_is_computed_anew_at_every_call():
    model = nn.Linear(1, 1, bias=False)
    batches = {"user": {"x": torch.tensor([[3.0]])}}
    step = StepContext([model.weight], lambda kind, loss: [loss(model, batches[kind])])
    for _ in range(2):
        assert step.gradient("user", loss=lambda model, batch: model(batch["x"]).sum())[0].item() == 3
    assert step.passes == 2


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("weights", "^parameter 0 was changed while the gradient of a step was computed; return the gradient"),
        ("data", "^parameter 0 was changed"),
        ("gradient", "^the user gradient of this step was changed in place; change a copy"),
        ("short", r"^the defense 'test_careless' gave gradients of the shapes \[\]; give one tensor or None for each"),
        ("shape", r"^the defense 'test_careless' gave gradients of the shapes \[\(2,\)\]"),
    ],
)
def test_what_a_gradient_may_not_do_is_an_error(how, message):
    w = parameter(1, -1, 2)
    with pytest.raises(ValueError, match=message):
        chain_gradient(Chain((Careless(how=how),)), step_of([w], {"user": quadratic(w)}))


def test_what_a_step_does_not_have_is_said():
    w = parameter(1, -1, 2)
    step = step_of([w], {"user": quadratic(w)})
    with pytest.raises(ValueError, match=r"^there is no loss of harm rows in this step; it has user$"):
        step.harm()
    with pytest.raises(ValueError, match=r"^there are no base weights"):
        step.weights("base")
    with pytest.raises(ValueError, match="needs a model"):
        step.gradient("user", loss=lambda model, batch: w.sum())
    with pytest.raises(ValueError, match=r"^there are no user rows"):
        StepContext([w], lambda kind, loss: []).user()
    base = step_of([w], {"user": quadratic(w)}, base=[w.detach() - 1]).weights("base")
    assert torch.equal(base[0], w.detach() - 1)


def test_without_a_defense_the_gradient_is_the_users():
    w = parameter(1, -1, 2)
    assert torch.equal(chain_gradient(Chain(), step_of([w], {"user": quadratic(w)}))[0], H @ w.detach())


def test_the_second_defense_sees_what_the_first_one_made_and_each_has_its_own_state():
    w, state = parameter(1, -1, 2), {}
    step = step_of([w], {"user": quadratic(w), "safety": w.sum}, state=state)
    one, other = Doubled(), chain("rehearsal:rho=3").defenses[0]
    g = H @ w.detach()
    assert torch.equal(chain_gradient(Chain((one, other)), step)[0], 2 * g + 3)
    assert step.passes == 2
    assert state == {"0.calls": 1}
    assert torch.equal(
        chain_gradient(Chain((other, one)), step_of([w], {"user": quadratic(w), "safety": w.sum}))[0], 2 * (g + 3)
    )


def test_at_shifted_weights_the_first_defense_acts_again_and_its_state_is_not_touched():
    w, state = parameter(1, -1, 2), {}
    step = step_of([w], {"user": quadratic(w)}, state=state)
    made = chain_gradient(Chain((Doubled(), Ahead())), step)[0]
    torch.testing.assert_close(made, 2 * H @ (w.detach() - 2 * H @ w.detach()), rtol=0, atol=1e-13)
    assert state == {"0.calls": 1}


def test_what_the_first_defense_leaves_alone_is_left_alone():
    w, v = parameter(1, -1, 2), parameter(1, 2)
    step = step_of([w, v], {"user": lambda: quadratic(w)() + v.sum()})
    made = chain_gradient(Chain((FirstOnly(), Doubled())), step)
    assert torch.equal(made[0], 2 * H @ w.detach())
    assert made[1] is None


def test_a_defense_with_a_loss_of_its_own_must_be_the_first():
    @dataclass(frozen=True, kw_only=True)
    class Own(Defense):
        stage = "train"

        def gradient(self, step):
            return step.gradient("user", loss=lambda model, batch: None)

    register_defense("test_own")(Own)
    w = parameter(1, -1, 2)
    with pytest.raises(ValueError, match=r"^the defense 'test_own' replaces the loss of the rows that are trained on"):
        chain_gradient(Chain((Doubled(), Own())), step_of([w], {"user": quadratic(w)}))
