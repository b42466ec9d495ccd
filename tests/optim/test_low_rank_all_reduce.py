"""Two processes under DDP: the trajectory of plain DDP, r of m rows on the wire, and whoever reads the bulk refused."""

import contextlib
import math

import pytest
import torch
from torch import distributed, nn

import subspace_lab as sl
from subspace_lab import optim
from tests.launch import tell, told_by
from tests.optim.collectives import Collectives

WORLD, RANK, STEPS, INTERVAL = 2, 3, 11, 4
NO_RECOVERY = {"recovery": "none", "rank": RANK}
CASES = {
    "GaLore": ("GaLore", {}),
    "GoLore": ("GoLore", {"random_after": 5}),
    "OnlineSubspaceDescent": ("OnlineSubspaceDescent", {}),
    "RSO": ("RSO", {"prox": 2.0}),
    "walk": ("SubspaceAdam", {"rule": "walk", "recovery": "none"}),
    "jump": ("SubspaceAdam", {"rule": "jump", "moments": "reset", "recovery": "none"}),
    "track": ("SubspaceAdam", {"rule": "track", "recovery": "none"}),
    "power": ("SubspaceAdam", {"rule": "power", "moments": "keep", "recovery": "none"}),
    "trig": ("SubspaceAdam", {"rule": "trig", "recovery": "none"}),
    "trig_walk": ("SubspaceAdam", {"rule": "trig_walk", "swaps": 2, "recovery": "none"}),
    "dct": ("SubspaceAdam", {"rule": "dct", "moments": "keep", "recovery": "none"}),
}


class Net(nn.Module):
    """Wide, tall, square, convolution, three matrices in one, one of less rows than the rank, and vectors."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv1d(2, 8, 3)
        self.up, self.same, self.qkv = nn.Linear(8, 12), nn.Linear(12, 12, bias=False), nn.Linear(12, 15)
        self.down = nn.Linear(15, 2, bias=False)
        self.double()

    def forward(self, x):
        x = torch.tanh(self.conv(x)).mean(2)
        return self.down(torch.tanh(self.qkv(torch.tanh(self.same(torch.tanh(self.up(x)))))))


def groups(model, **settings):
    return optim.param_groups(
        model,
        rank=RANK,
        targets=["*"],
        splits={"*qkv.weight": 3},
        weight_decay=0.1,
        update_interval=INTERVAL,
        **settings,
    )


def build(kind, options, hooked, **settings):
    model = nn.parallel.DistributedDataParallel(Net(), bucket_cap_mb=0.0005, **settings)
    optimizer = optim.method_named(kind)(groups(model.module), lr=0.02, **options)
    if hooked:
        optim.low_rank_all_reduce(model, optimizer)
    return model, optimizer


def train(model, optimizer, accumulation=1, set_to_none=True):
    """Parameters after every step, and what the all-reduces of it moved."""
    generator = torch.Generator().manual_seed(7 + distributed.get_rank())
    weights, sizes = [], []
    for _ in range(STEPS):
        with Collectives() as collectives:
            for micro in range(accumulation):
                with contextlib.nullcontext() if micro == accumulation - 1 else model.no_sync():
                    model(torch.randn(4, 2, 7, generator=generator, dtype=torch.float64)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=set_to_none)
        weights.append(torch.cat([p.detach().flatten().clone() for p in model.parameters()]))
        sizes.append(sum(size for kind, _, size in collectives.seen if kind == "all-reduce"))
    return torch.stack(weights), sizes


def compared(kind, options, accumulation=1, set_to_none=True, **settings):
    plain, whole = train(*build(kind, options, False, **settings), accumulation, set_to_none)
    hooked, sizes = train(*build(kind, options, True, **settings), accumulation, set_to_none)
    return {"off": float((plain - hooked).abs().max() / plain.abs().max()), "whole": whole, "sizes": sizes}


def message_of(work):
    try:
        work()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def backward(model, scale=1.0):
    model(scale * torch.ones(4, 2, 7, dtype=torch.float64)).square().sum().backward()


def refusals(directory):
    """What readers of the bulk are told in an ordinary step."""
    model, optimizer = build("GaLore", {}, True)
    backward(model)
    first = message_of(lambda: nn.utils.clip_grad_norm_(model.parameters(), 1.0))
    optimizer.step()
    optimizer.zero_grad()
    backward(model)
    capture = sl.GradientCapture(model, f"{directory}/run", every=1, on_error="raise")
    told = {
        "first": first,
        "clip": message_of(lambda: nn.utils.clip_grad_norm_(model.parameters(), 1.0)),
        "groups": message_of(optim.AdaptiveGroupClipper(model.module)),
        "log": message_of(lambda: model.module.same.weight.grad.norm()),
        "capture": message_of(lambda: capture.step(0)),
        "full-rank": message_of(lambda: model.module.up.bias.grad.norm()),
        "again": message_of(lambda: optim.low_rank_all_reduce(model, optimizer)),
    }
    optimizer.step()
    return told


def projected_norms():
    """The norm of what is left in p.grad is that of the projected gradients."""
    model, optimizer = build("GaLore", {}, False)
    plain = model
    optim_plain = optimizer
    model, optimizer = build("GaLore", {}, False)
    optim.low_rank_all_reduce(model, optimizer, clip_norm="projected")
    for one, other in ((plain, optim_plain), (model, optimizer)):
        backward(one)
        other.step()
        other.zero_grad()
        backward(one)
    W, S = plain.module.same.weight, optim_plain.state[plain.module.same.weight]["basis"]
    return {
        "wanted": float((S.mT @ W.grad).norm()),
        "found": float(nn.utils.get_total_norm([model.module.same.weight.grad])),
        "whole": float(W.grad.norm()),
    }


def not_finite(on_nonfinite):
    """An infinite input on the last process only, in an ordinary step."""
    model, optimizer = build("GaLore", {"on_nonfinite": on_nonfinite}, True)
    for _ in range(2):
        backward(model)
        optimizer.step()
        optimizer.zero_grad()
    before = [p.detach().clone() for p in model.parameters()]
    backward(model, math.inf if distributed.get_rank() == WORLD - 1 else 1.0)
    told = message_of(optimizer.step).partition(":")[0]
    same = all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    return [told, same]


def scaled():
    """Losses scaled up, and gradients down again by GradScaler, which asks whether they are finite."""
    found = []
    for hooked in (False, True):
        model, optimizer = build("GaLore", {}, hooked)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**7)
        for step in range(INTERVAL):
            scaler.scale(model(torch.full((4, 2, 7), 1.0 + step, dtype=torch.float64)).square().sum()).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        found.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    return float((found[0] - found[1]).abs().max())


def another_seed():
    model, optimizer = build("RSO", {"seed": distributed.get_rank()}, False)
    return message_of(lambda: optim.low_rank_all_reduce(model, optimizer))


def closed():
    model = nn.parallel.DistributedDataParallel(Net())
    optimizer = optim.GaLore(groups(model.module), lr=0.02)
    optim.low_rank_all_reduce(model, optimizer).close()
    plain, whole = train(*build("GaLore", {}, False))
    back, sizes = train(model, optimizer)
    return [float((plain - back).abs().max()), whole[-1] == sizes[-1]]


def worker(directory):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    told = {name: compared(*case) for name, case in CASES.items()}
    told["accumulated"] = compared("GaLore", {}, accumulation=2)
    told["zeroed"] = compared("GaLore", {}, set_to_none=False)
    told["views"] = compared("GaLore", {}, set_to_none=False, gradient_as_bucket_view=True)
    told["float32 basis"] = compared("GaLore", {"state_dtype": "float32"})
    told |= {"refusals": refusals(directory), "norms": projected_norms(), "closed": closed()}
    told |= {"scaled": scaled(), "seeds": another_seed()}
    told |= {how: not_finite(how) for how in ("raise", "skip")}
    tell(told, directory)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    return told_by(f"{__name__}:worker", WORLD, tmp_path_factory.mktemp("processes"))


def bytes_of_a_step():
    """Of all gradients, and of those of an ordinary step: r of m rows of every matrix."""
    whole = small = 0
    for p in Net().parameters():
        whole += p.nbytes
        if p.dim() == 1:
            small += p.nbytes
            continue
        splits = 3 if tuple(p.shape) == (15, 12) else 1
        m, n = sorted((p.shape[0] // splits, math.prod(p.shape[1:])))
        small += splits * min(RANK, m) * n * 8
    return whole, small


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CASES, "accumulated", "zeroed", "views"])
def test_it_is_the_trajectory_of_plain_ddp_with_r_of_m_rows_on_the_wire(name, told):
    whole, small = bytes_of_a_step()
    is_refresh = [t == 1 or (t - 1) % INTERVAL == 0 for t in range(1, STEPS + 1)]
    if name == "OnlineSubspaceDescent":  # which moves its basis behind the step
        is_refresh = [t == 1 or t % INTERVAL == 0 for t in range(1, STEPS + 1)]
    for process in told:
        assert process[name]["off"] < 1e-10
        assert process[name]["whole"] == [whole] * STEPS
        assert process[name]["sizes"] == [whole if refreshes else small for refreshes in is_refresh]


@pytest.mark.slow
def test_a_basis_that_is_kept_in_few_digits_is_exact_to_these(told):
    assert all(process["float32 basis"]["off"] < 1e-5 for process in told)


@pytest.mark.slow
def test_whoever_reads_the_bulk_is_refused_in_one_line(told):
    for process in told:
        found = process["refusals"]
        assert (found["first"], found["full-rank"]) == ("nothing", "nothing")
        for reader in ("clip", "groups", "log", "capture"):
            assert "reads a gradient that low_rank_all_reduce summed in its subspace only" in found[reader], reader
            assert found[reader].startswith(("ValueError: ", "RunError: "))
            assert "\n" not in found[reader]
        assert found["again"].startswith("ValueError: this DDP model has a communication hook")


@pytest.mark.slow
def test_the_projected_norm_is_there_for_who_asks_for_it(told):
    for process in told:
        norms = process["norms"]
        assert norms["found"] == pytest.approx(norms["wanted"], rel=1e-12)
        assert norms["found"] < norms["whole"]


@pytest.mark.slow
def test_all_decide_alike_whether_a_step_is_finite(told):
    assert [process["raise"] for process in told] == [["NonFiniteGradientError", True]] * WORLD
    assert [process["skip"] for process in told] == [["nothing", True]] * WORLD


@pytest.mark.slow
def test_closed_it_is_plain_ddp(told):
    assert [process["closed"] for process in told] == [[0.0, True]] * WORLD


@pytest.fixture
def alone(tmp_path):
    """A world of one process, this one."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.slow
def test_a_scaler_of_gradients_scales_what_was_summed(told):
    assert all(of["scaled"] < 1e-10 for of in told)


@pytest.mark.slow
def test_other_seeds_on_other_processes_are_refused(told):
    ends = "give all processes the same settings, the seed included"
    assert [of["seeds"] for of in told] == [
        f"ValueError: param_groups[0] has seed=0 here and 1 on process 1: {ends}",
        f"ValueError: param_groups[0] has seed=1 here and 0 on process 0: {ends}",
    ]


def test_alone_it_is_plain_training(alone):
    plain, _ = train(*build("GaLore", {}, False))
    hooked, sizes = train(*build("GaLore", {}, True))
    assert float((plain - hooked).abs().max() / plain.abs().max()) < 1e-10
    assert sizes[:2] == list(bytes_of_a_step())


def test_a_gradient_in_a_subspace_is_refused_to_all_but_its_optimizer(alone):
    model, optimizer = build("GaLore", {}, True)
    for _ in range(2):
        optimizer.zero_grad(set_to_none=False)
        backward(model)
        W = model.module.same.weight
        message = message_of(lambda: nn.utils.clip_grad_norm_([W], 1.0))  # noqa: B023
        optimizer.step()
    assert message.startswith("ValueError: linalg_vector_norm reads a gradient that low_rank_all_reduce summed in its")
    assert W.grad.shape == W.shape
    for reads in (lambda: W.grad[0, 0].item(), lambda: W.grad.data, lambda: W.grad.mT, lambda: W.grad.mul_(W)):
        assert "reads a gradient" in message_of(reads)


def edited_interval(optimizer):
    for group in optimizer.param_groups:
        group["update_interval"] = 1


def loaded(optimizer):
    optimizer.load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("change", [edited_interval, loaded])
def test_what_changes_the_subspace_between_backward_and_step_is_refused(change, alone):
    model, optimizer = build("GaLore", {}, True)
    backward(model)
    optimizer.step()
    optimizer.zero_grad()
    backward(model)
    change(optimizer)
    before = [p.detach().clone() for p in model.parameters()]
    assert "do that before the backward" in message_of(optimizer.step)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    optimizer.zero_grad()
    backward(model)
    assert message_of(optimizer.step) == "nothing"


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("GrassWalk", {}, "GrassWalk recovers what lies outside of its subspace (recovery='scaled'), so that its"),
        ("Fira", {}, "Fira recovers what lies outside of its subspace (recovery='scaled'), so that its gradients must"),
        ("LDAdam", {}, "LDAdam keeps what the projection loses for the next step (recovery='feedback'), so that its"),
        ("SubspaceAdam", {"recovery": "sign"}, "SubspaceAdam takes the signs of what lies outside of its subspace"),
        ("APOLLO", {}, "APOLLO steps along the whole gradient, with scaled columns, so that its gradients must be"),
        ("FRUGAL", {}, "FRUGAL takes the signs of all rows outside of its own, so that its gradients must be summed"),
        (
            "BAdam",
            {"update_interval": INTERVAL},
            "BAdam steps along the whole gradient: there is no subspace to sum in; leave the hook out",
        ),
    ],
)
def test_methods_that_read_the_bulk(method, settings, message, alone):
    model, optimizer = build(method, settings, False)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        optim.low_rank_all_reduce(model, optimizer)
    assert str(error.value).startswith(message)


def test_what_has_nothing_to_project_or_is_not_ddp(alone):
    model, optimizer = build("GaLore", {}, False)
    with pytest.raises(
        ValueError, match=r"^low_rank_all_reduce takes a DistributedDataParallel model, got Net; give the DDP model"
    ):
        optim.low_rank_all_reduce(model.module, optimizer)
    with pytest.raises(ValueError, match=r"^clip_norm must be one of 'projected', None, got 'whole'"):
        optim.low_rank_all_reduce(model, optimizer, clip_norm="whole")
    with pytest.raises(ValueError, match=r"^AdamW steps along the whole gradient"):
        optim.low_rank_all_reduce(model, torch.optim.AdamW(model.parameters()))
    full = optim.GaLore(model.parameters(), rank=None)
    with pytest.raises(ValueError, match=r"^no parameter of the model has a rank in this GaLore"):
        optim.low_rank_all_reduce(model, full)
