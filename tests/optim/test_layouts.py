"""Any layout in memory, any small shape, any dtype: right, or refused in one line when the group is made."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from subspace_lab import optim
from subspace_lab.optim.matrices import lie_alike
from tests.optim.members import every_member


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def driven(member, p: nn.Parameter, rank: int | None, gradient, **settings) -> Tensor:
    """The parameter after some steps."""
    optimizer = member.build([{"params": [p], "rank": rank}], weight_decay=0.1, **settings)
    for step in range(5):
        p.grad = gradient(step)
        optimizer.step()
    return p.detach().clone()


def _reversed(G: Tensor) -> tuple[int, ...]:
    return tuple(reversed(range(G.dim())))


VIEWS = {  # a tensor in larger memory -> the view that is trained
    "every other column": ((6, 20), lambda base: base[:, ::2]),
    "left columns": ((6, 20), lambda base: base[:, :10]),
    "one column": ((10, 3), lambda base: base[:, 0]),
    "transposed": ((10, 6), lambda base: base.mT),
    "channels last": ((4, 5, 3, 2), lambda base: base.permute(0, 3, 1, 2)),
    "turned": ((4, 5, 3), lambda base: base.permute(2, 0, 1)),
    "a number": ((3,), lambda base: base[1]),
    "one row": ((3, 8), lambda base: base[1:2]),
    "no rows": ((3, 8), lambda base: base[:0]),
}
GRADIENTS = {
    "contiguous": lambda G: G.contiguous(),
    "turned": lambda G: G.permute(_reversed(G)).contiguous().permute(_reversed(G)),
    "with gaps": lambda G: torch.stack([G, G], -1)[..., 0],
}


@every_member
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("rank", [2, None])
def test_views_train_as_their_copies_do_and_nothing_else_is_written(member, view, rank):
    shape, of = VIEWS[view]
    shown = of(torch.zeros(shape))
    if rank is not None and member.has_subspaces and (shown.dim() < 2 or shown.numel() == 0):
        pytest.skip("refused, as elsewhere")
    copied = driven(
        member, nn.Parameter(of(normal(*shape)).clone().contiguous()), rank, lambda s: normal(*shown.shape, seed=s + 1)
    )
    for layout in GRADIENTS.values():
        base, others = normal(*shape), normal(*shape)
        p = nn.Parameter(of(base))
        moved = driven(member, p, rank, lambda s, lay=layout: lay(normal(*shown.shape, seed=s + 1)))
        torch.testing.assert_close(moved, copied, rtol=1e-4, atol=1e-5)
        of(others).copy_(moved)
        assert torch.equal(base, others), "memory that is not the parameter's was written"


def test_what_a_kernel_may_walk_through():
    """Entries at the same places one after another, in whatever order."""
    turned, gaps = torch.zeros(4, 3).mT, torch.zeros(3, 8)[:, ::2]
    assert lie_alike(turned, torch.ones(4, 3).mT)
    assert lie_alike(torch.zeros(3, 4), torch.zeros(3, 4))
    assert not lie_alike(turned, torch.zeros(3, 4))
    assert not lie_alike(torch.zeros(3, 4), turned)
    assert not lie_alike(gaps, torch.zeros(3, 8)[:, ::2])
    assert not lie_alike(turned, torch.ones(4, 3).double().mT)


@every_member
@pytest.mark.parametrize("rank", [2, None])
def test_a_layout_that_changes_between_steps(member, rank):
    finals = []
    for turned in (False, True):
        p = nn.Parameter(normal(4, 3, 2, 2))
        form = [torch.contiguous_format, torch.channels_last if turned else torch.contiguous_format]
        finals.append(
            driven(member, p, rank, lambda s, f=form: normal(4, 3, 2, 2, seed=s).contiguous(memory_format=f[s % 2]))
        )
    torch.testing.assert_close(*finals, rtol=1e-4, atol=1e-5)


@every_member
@pytest.mark.parametrize("rank", [2, None])
def test_expanded_gradients(member, rank):
    finals = [
        driven(member, nn.Parameter(normal(6, 8)), rank, lambda s, f=form: f(normal(6, 1, seed=s).expand(6, 8)))
        for form in (lambda G: G, lambda G: G.clone(memory_format=torch.contiguous_format))
    ]
    torch.testing.assert_close(*finals, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        (torch.zeros(6, 1).expand(6, 8), "share memory"),
        (torch.zeros(20).as_strided((5, 4), (2, 1)), "share memory"),
        (torch.zeros(()).expand(4), "share memory"),
        (torch.eye(4).to_sparse(), "sparse"),
        (torch.zeros(4, 4, dtype=torch.complex32), "complex32"),
        (torch.zeros(4, 4, dtype=torch.float8_e4m3fn), "float8"),
    ],
)
@every_member
@pytest.mark.parametrize("rank", [2, None])
def test_what_cannot_be_trained_is_refused_when_the_group_is_made(member, rank, p, expected):
    with pytest.raises(ValueError, match=expected) as caught:
        member.build([{"params": [nn.Parameter(p, requires_grad=p.is_floating_point())], "rank": rank}])
    assert "\n" not in str(caught.value)


def test_complex_parameters_at_full_rank_are_torchs():
    one, other = (nn.Parameter(torch.complex(normal(4, 5), normal(4, 5, seed=9))) for _ in range(2))
    ours, torchs = optim.GaLore([one], rank=None, lr=0.1), torch.optim.AdamW([other], lr=0.1, weight_decay=0)
    for step in range(5):
        one.grad = torch.complex(normal(4, 5, seed=step), normal(4, 5, seed=step + 50))
        other.grad = one.grad.clone()
        ours.step()
        torchs.step()
    torch.testing.assert_close(one.detach(), other.detach(), rtol=1e-6, atol=1e-6)
    half = nn.Parameter(one.detach().clone())
    single = optim.GaLore([half], rank=None, state_dtype="float64")
    half.grad = one.grad.conj()
    single.step()
    assert single.state[half]["exp_avg"].dtype == torch.complex128
    with pytest.raises(ValueError, match="no complex bfloat16"):
        optim.GaLore([half], rank=None, state_dtype="bfloat16")


@every_member
def test_options_of_one_entry_are_numbers(member):
    tensors = {"lr": torch.tensor(0.25), "betas": (torch.tensor(0.5), 0.75), "weight_decay": torch.tensor([0.5])}
    finals = []
    for settings in (tensors, {"lr": 0.25, "betas": (0.5, 0.75), "weight_decay": 0.5}):
        ps = [nn.Parameter(normal(4, 6)), nn.Parameter(normal(5))]
        optimizer = member.build([{"params": ps[:1], "rank": 2}, {"params": ps[1:], "rank": None}], **settings)
        for step in range(5):
            for p in ps:
                p.grad = normal(*p.shape, seed=step)
            optimizer.step()
        finals.append(torch.cat([p.detach().flatten() for p in ps]))
    assert torch.equal(*finals)
    with pytest.raises(ValueError, match="lr must be a finite number of at least 0, got tensor") as caught:
        member.build([nn.Parameter(normal(4, 6))], rank=None, lr=torch.ones(20, 30))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


# --- state_dtype and stochastic_rounding without a rank ---------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("asked", [None, "float32", "float64", "bfloat16"])
def test_moments_at_full_rank_are_of_the_dtype_that_is_asked_for_and_reported(dtype, asked):
    modules = {"norm": nn.LayerNorm(8), "up": nn.Linear(8, 4), "scale": nn.ParameterDict({"p": torch.zeros(())})}
    model = nn.ModuleDict(modules).to(dtype)
    optimizer = optim.GaLore(optim.param_groups(model, rank=2), state_dtype=asked)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    kind = getattr(torch, asked) if asked else torch.promote_types(dtype, torch.float32)
    tensors = [v for state in optimizer.state.values() for v in state.values()]
    assert {state["exp_avg"].dtype for state in optimizer.state.values()} == {kind}
    assert {state["exp_avg_sq"].dtype for state in optimizer.state.values()} == {kind}
    report = optim.memory_report(model, "GaLore", rank=2, state_dtype=asked)
    assert report.optimizer == sum(v.nbytes for v in tensors if isinstance(v, Tensor))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rank", [None, 2])
def test_steps_below_the_resolution_are_kept_in_the_mean(dtype, rank):
    """At 1 a step of 1e-5 is lost by rounding to nearest; the mean over many entries is that of float32."""
    moved = {}
    for stochastic in (True, False):
        p = nn.Parameter(torch.ones(64, 64, dtype=dtype))
        optimizer = optim.GaLore([{"params": [p], "rank": rank, "scale": 1.0}], lr=1e-5, stochastic_rounding=stochastic)
        for _ in range(100):
            p.grad = torch.ones_like(p)
            optimizer.step()
        moved[stochastic] = float((1 - p.detach().double()).mean())
    full = nn.Parameter(torch.ones(64, 64))
    optimizer = optim.GaLore([{"params": [full], "rank": rank, "scale": 1.0}], lr=1e-5)
    for _ in range(100):
        full.grad = torch.ones_like(full)
        optimizer.step()
    expected = float((1 - full.detach().double()).mean())
    assert moved[True] == pytest.approx(expected, rel=0.15)
    assert moved[False] == 0


def test_float16_is_rounded_without_bias_at_every_size():
    """Normal numbers, subnormal ones and zero: the mean of many roundings is the number."""
    from subspace_lab.optim.rounding import add_stochastically

    for size in (1.0, 1000.3, 3e-5, 7e-8, 0.0):
        p = torch.zeros(200_000, dtype=torch.float16)
        change = torch.full((200_000,), size)
        add_stochastically(p, change, 1.0, torch.Generator().manual_seed(0))
        step = max(2.0**-24, size * 2.0**-10)
        assert abs(float(p.double().mean()) - float(change[0].double())) < 5 * step / 200_000**0.5
        assert (p.double() - size).abs().max() <= step


# --- the clipper ------------------------------------------------------------------------------------------------------

FORMS = {
    "contiguous": lambda G: G.clone(),
    "sparse": lambda G: G.to_sparse(1),
    "sparse, entries twice": lambda G: torch.sparse_coo_tensor(
        torch.tensor([[*range(6), *range(6)]]), torch.cat([G / 4, G * 3 / 4]), G.shape
    ),
    "gaps": lambda G: torch.stack([G, G], -1)[..., 0],
    "turned": lambda G: G.mT.contiguous().mT,
}


@pytest.mark.parametrize("form", FORMS)
def test_the_clipper_takes_every_form_of_a_gradient(form):
    p, q = nn.Parameter(torch.zeros(6, 8)), nn.Parameter(torch.zeros(()))
    clip = optim.AdaptiveGroupClipper({"all": [p, q]}, high=1.5)
    for size in (1.0, 10.0):
        p.grad, q.grad = FORMS[form](size * normal(6, 8)), torch.tensor(size)
        factors = clip()
    assert factors["all"] == pytest.approx(0.15, rel=1e-5)
    got = p.grad.to_dense() if p.grad.is_sparse else p.grad
    torch.testing.assert_close(got, 1.5 * normal(6, 8))
    torch.testing.assert_close(q.grad, torch.tensor(1.5))


def test_the_clipper_scales_an_expanded_gradient_once():
    p = nn.Parameter(torch.zeros(3, 5))
    clip = optim.AdaptiveGroupClipper({"all": p}, high=1.5)
    for size in (1.0, 6.0):
        p.grad = torch.full((3, 1), size).expand(3, 5)
        clip()
    torch.testing.assert_close(p.grad, torch.full((3, 5), 1.5))


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 1e25), (torch.float64, 1e200), (torch.float16, 6e4)])
def test_the_clipper_clips_what_cannot_be_squared(dtype, size):
    p = nn.Parameter(torch.zeros(4, 4, dtype=dtype))
    clip = optim.AdaptiveGroupClipper({"all": p}, high=1.5)
    p.grad = torch.ones_like(p)
    clip()
    p.grad = torch.full_like(p, size)
    assert clip()["all"] == pytest.approx(1.5 / float(torch.tensor(size, dtype=dtype)), rel=1e-3)
    torch.testing.assert_close(p.grad, torch.full_like(p, 1.5), rtol=1e-2, atol=0)
    p.grad = torch.full_like(p, float("inf"))
    assert clip()["all"] == 1.0


def test_the_clipper_and_empty_or_complex_gradients():
    empty, turned = nn.Parameter(torch.zeros(0, 3)), nn.Parameter(torch.zeros(4, dtype=torch.complex64))
    clip = optim.AdaptiveGroupClipper({"empty": empty, "complex": turned}, high=1.5)
    for size in (1.0, 4.0):
        empty.grad, turned.grad = torch.zeros(0, 3), torch.full((4,), size * 1j)
        factors = clip()
    assert factors == {"empty": 1.0, "complex": pytest.approx(0.375)}
    torch.testing.assert_close(turned.grad, torch.full((4,), 1.5j))


@every_member
@pytest.mark.parametrize("rank", [2, None])
def test_negated_and_conjugated_views(member, rank):
    """The imaginary part of a conjugate is a view that torch negates when it is read."""
    gradient, p = torch.complex(normal(6, 8), normal(6, 8, seed=1)), normal(6, 8, seed=2)
    view = gradient.conj().imag
    assert view.is_neg()
    forms = [view, view.resolve_neg()]
    assert torch.equal(*(driven(member, nn.Parameter(p.clone()), rank, lambda _, g=g: g) for g in forms))
    held = nn.Parameter(gradient.conj().imag)
    with pytest.raises(ValueError, match=r"^w: the parameter is a conjugated or negated view, .*view of$"):
        member.build([{"params": [("w", held)], "rank": rank}])


def test_a_complex_parameter_that_is_a_conjugated_view():
    with pytest.raises(ValueError, match="conjugated or negated view"):
        optim.GaLore([nn.Parameter(torch.zeros(3, dtype=torch.complex64).conj())], rank=None)
