"""A part of the graph that torch does not know of is refused, whatever it is missing for; the rest is measured."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import subspace_lab as sl
from subspace_lab.analysis.loss.blocks import select_blocks
from subspace_lab.analysis.loss.completeness import displaced


class Opaque(torch.autograd.Function):
    """tanh; its backward computes with constants, or with what torch can follow."""

    @staticmethod
    def forward(ctx, x, followed):
        ctx.followed = followed
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        x = x if ctx.followed else x.detach()
        return (1 - x.tanh() ** 2) * gradient, None


class Model(nn.Module):
    """Three layers, of which something becomes of the first or the second on the way."""

    def __init__(self, way: str = "", act=torch.tanh) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.m, self.b = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.way, self.act = way, act

    def forward(self, x):
        return self.b(getattr(self, self.way or "plain")(x))

    def first(self, x):
        return self.act(self.a(x))

    def second(self, x):
        return self.act(self.m(x))

    def plain(self, x):
        return self.second(self.first(x))

    def checkpointed(self, x):
        return checkpoint(self.second, self.first(x), use_reentrant=False)

    def logged(self, x):
        self.seen = self.first(x).detach().numpy().mean(), self.m.weight.norm().item()
        return self.plain(x)

    def followed(self, x):
        return Opaque.apply(self.plain(x), True)

    def reentrant(self, x):
        return self.second(checkpoint(self.first, x, use_reentrant=True))

    def reentrant_blocks(self, x):
        return checkpoint(self.second, checkpoint(self.first, x, use_reentrant=True), use_reentrant=True)

    def reentrant_within(self, x):
        return checkpoint(self.second, self.first(x), use_reentrant=True)

    def detached(self, x):
        return self.second(self.first(x).detach())

    def detached_in_part(self, x):
        return self.plain(x) + 0.3 * self.first(x).detach()

    def no_grad(self, x):
        with torch.no_grad():
            inner = self.first(x)
        return self.second(inner)

    def data(self, x):
        return self.second(self.act(x @ self.a.weight.data.T + self.a.bias))

    def numpy(self, x):
        return self.plain(x) + torch.from_numpy(self.first(x).detach().numpy())

    def item(self, x):
        return self.plain(x) * self.m.weight.norm().item()

    def straight_through(self, x):
        inner = self.first(x)
        return self.second(inner + (inner.round() - inner).detach())

    def opaque(self, x):
        return Opaque.apply(self.plain(x), False)

    def hooked(self, x):
        inner = self.plain(x)
        inner.register_hook(lambda gradient: gradient.detach().clone())
        return inner

    def halved(self, x):
        inner = self.plain(x)
        inner.register_hook(lambda gradient: gradient / 2)
        return inner


WHOLE = ["checkpointed", "logged", "followed"]
CUT = ["reentrant", "reentrant_blocks", "reentrant_within", "detached", "no_grad", "data"]
IN_PART = ["detached_in_part", "numpy", "item", "straight_through", "halved"]
SECOND = ["opaque", "hooked"]  # the first derivative is whole
ACTS = [torch.tanh, torch.relu]


def batch():
    draw = torch.Generator().manual_seed(1)
    return torch.randn(16, 8, generator=draw), torch.randn(16, 4, generator=draw)


def loss(model, batch):
    return (model(batch[0]) - batch[1]).square().mean()


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("way", CUT + IN_PART + SECOND)
def test_what_is_missing_is_refused_in_one_line(way, act):
    for measure in (sl.analysis.hessian, sl.analysis.loss_curvature):
        with pytest.raises(ValueError, match=r"no gradient|not that of the loss|incomplete|use_reentrant") as caught:
            measure(Model(way, act), loss, batch(), k=1)
        assert "\n" not in str(caught.value)
    if way not in SECOND:
        with pytest.raises(ValueError, match=r"no gradient|not that of the loss|use_reentrant") as caught:
            sl.analysis.noise(Model(way, act), loss, batch())
        assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("way", ["reentrant", "detached", "data"])
def test_it_names_the_parameter_and_the_others_are_measured(way):
    with pytest.raises(ValueError, match=r"changes with a.weight, but has no gradient there: a part of the graph"):
        sl.analysis.hessian(Model(way), loss, batch(), k=1)
    with pytest.raises(ValueError, match=r"a.weight.* or no gradient reaches it"):
        sl.analysis.hessian(Model(way), loss, batch(), "a.weight", k=1)
    found, expected = (sl.analysis.hessian(Model(w), loss, batch(), "m.weight", k=2) for w in (way, ""))
    assert found["eigenvalue"].tolist() == pytest.approx(expected["eigenvalue"].tolist(), rel=1e-5)


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("way", WHOLE)
def test_what_is_whole_is_measured(way, act):
    found = sl.analysis.hessian(Model(way, act), loss, batch(), k=1)["eigenvalue"][0]
    if way != "followed":
        assert found == pytest.approx(
            sl.analysis.hessian(Model("", act), loss, batch(), k=1)["eigenvalue"][0], rel=1e-5
        )
    sl.analysis.noise(Model(way, act), loss, batch())


def test_a_part_in_a_hundred_parameters_is_found():
    """One of many layers, by the second derivative where the first hides it."""

    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(2)
            self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(25))

        def forward(self, x):
            for i, layer in enumerate(self.layers):
                inner = torch.tanh(layer(x))
                x = x + (Opaque.apply(layer(x), False) if i == 13 else inner)
            return x

    x = torch.randn(16, 6, generator=torch.Generator().manual_seed(3))
    with pytest.raises(ValueError, match=r"second derivative of .* is incomplete"):
        sl.analysis.hessian(Deep(), lambda m, x: m(x).square().mean(), x, k=1)
    with pytest.raises(ValueError, match=r"second derivative of layers.13.weight is incomplete"):
        sl.analysis.hessian(Deep(), lambda m, x: m(x).square().mean(), x, "layers.13.weight", k=1)


def test_many_kinks_are_not_taken_for_a_missing_part():
    """Differences of gradients count kinks, and 800,000 of them look smooth; the Hessian has nothing of them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 4))
    with torch.no_grad():
        model[2].weight.abs_()
    x = torch.randn(200_000, 2)
    found = sl.analysis.hessian(model, lambda m, x: (m(x) + 20).square().mean(), x, k=1)
    assert bool(found["converged"].all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_no_precision_refuses_what_is_whole(dtype):
    model = Model().to(dtype)
    assert len(sl.analysis.hessian(model, loss, tuple(part.to(dtype) for part in batch()), k=1, tol=0.5)) == 1


def test_weights_are_displaced_without_being_written_and_come_back_after_an_error():
    base = torch.arange(12.0).reshape(6, 2)
    model = nn.Module()
    model.w = nn.Parameter(base[:, 0])
    (block,) = select_blocks(model, None)
    before, place = base.clone(), model.w.data_ptr()
    seen = []

    def moved():
        with displaced(block, [torch.ones(6)], 0.5):
            seen.append((model.w.tolist(), torch.equal(base, before)))
            raise KeyError

    with pytest.raises(KeyError):
        moved()
    assert seen == [([0.5, 2.5, 4.5, 6.5, 8.5, 10.5], True)]
    assert (model.w.data_ptr(), model.w.tolist()) == (place, [0, 2, 4, 6, 8, 10])
