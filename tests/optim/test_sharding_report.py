"""The counted bytes and traffic of every sharding that torch realizes, against four processes that train that way."""

import pytest
import torch
from torch import distributed, nn

from subspace_lab import optim
from tests.launch import tell, told_by
from tests.optim.collectives import Collectives, held, received

WORLD, PER_NODE, RANK = 4, 2, 3
SCALARS = 8  # bytes of a collective that are not counted: flags, norms
REALIZED = {
    1: ["NNN", "NNI", "NNG", "NII", "NGG", "III", "IGG", "GGG"],
    2: ["NNN", "NNI", "NNG", "NII", "NGG", "INI", "ING", "III", "IGG", "GNG", "GGG"],
}


CASES = [("AdamW", count, name) for count, names in REALIZED.items() for name in names]
CASES += [("GrassWalk", 1, "NNN"), ("GrassWalk", 1, "NNI"), ("APOLLO", 1, "NNG")]
LOW_RANK = [name for name in optim.methods.__all__ if name != "BAdam"]
CASES += [(name, 1, sharding) for name in LOW_RANK for sharding in ("III", "GGG")]
REFRESHING = ["GrassWalk", "GrassJump", "SubTrack", "GaLore", "GoLore", "Fira"]
CASES += [(f"{name}, refreshing", 1, sharding) for name in REFRESHING for sharding in ("III", "GGG")]


class Net(nn.Module):
    """Wide, tall and square matrices, whose rows do not all divide over four processes, and a vector."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.up, self.same, self.norm = nn.Linear(8, 14, bias=False), nn.Linear(14, 14, bias=False), nn.LayerNorm(14)
        self.down = nn.Linear(14, 6, bias=False)

    def forward(self, x):
        return self.down(self.norm(torch.tanh(self.same(torch.tanh(self.up(x))))))


def shapes():
    return {name: tuple(p.shape) for name, p in Net().named_parameters()}


def groups_of_nodes():
    nodes = [list(range(first, first + PER_NODE)) for first in range(0, WORLD, PER_NODE)]
    return [distributed.new_group(node) for node in nodes][distributed.get_rank() // PER_NODE]


def optimizer_of(method, model, **dealt_out):
    from torch.distributed.optim import ZeroRedundancyOptimizer

    method, refreshing, _ = method.partition(", refreshing")
    groups = model.parameters() if method == "AdamW" else optim.param_groups(model, rank=RANK)
    kind = optim.method_named(method)
    if dealt_out and method != "AdamW":  # it cuts the parameters of a group, and leaves their names as they are
        groups = [{key: value for key, value in group.items() if key != "param_names"} for group in groups]
    settings = {"lr": 1e-3, **({"update_interval": 2} if refreshing else {})}  # in the third step
    return ZeroRedundancyOptimizer(groups, kind, **settings, **dealt_out) if dealt_out else kind(groups, **settings)


def build(method, sharding, accumulation, node):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = Net()
    if sharding == "NNN" or (sharding in {"NNI", "NNG"} and accumulation == 1):
        model = nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
        group = {"I": {"process_group": node}, "G": {"process_group": None}, "N": {}}[sharding[2]]
        return model, optimizer_of(method, model, **group)
    p, _, o = sharding
    mesh = (WORLD // PER_NODE, PER_NODE) if o == "I" else (WORLD,)
    names = ("node", "place") if o == "I" else ("process",)
    settings = {
        "mesh": init_device_mesh("cpu", mesh, mesh_dim_names=names),
        "reshard_after_forward": True if p == o else False if p == "N" else PER_NODE,
    }
    for part in (model.up, model.same, model.norm, model.down):
        fully_shard(part, **settings)
    fully_shard(model, **settings)
    return model, optimizer_of(method, model)


def parameters_held(model):
    if isinstance(model, nn.parallel.DistributedDataParallel):
        return held(model.parameters())
    found = []
    for part in model.children():
        for group in part._get_fsdp_state()._fsdp_param_groups:
            for one in group.fsdp_params:
                after = getattr(one, "_sharded_post_forward_param_data", None)
                found += [one._sharded_param_data, *one.all_gather_outputs, *([] if after is None else [after])]
    return held(found)


def gradients_held(model):
    found = [p.grad for p in model.parameters() if p.grad is not None]
    if not isinstance(model, nn.parallel.DistributedDataParallel):
        for part in model.children():
            for group in part._get_fsdp_state()._fsdp_param_groups:
                for one in group.fsdp_params:
                    whole = getattr(one, "unsharded_accumulated_grad", None)
                    if whole is None and hasattr(one, "_unsharded_param"):
                        whole = one._unsharded_param.grad
                    found += [] if whole is None else [whole]
    return held(found)


def measure(method, accumulation, sharding, node):
    """Three steps; what is held and received in the last. In the second, DDP arranges its buckets anew."""
    model, optimizer = build(method, sharding, accumulation, node)
    sharded = not isinstance(model, nn.parallel.DistributedDataParallel)
    for _ in range(3):
        told = {"parameters": 0, "gradients": 0}
        with Collectives() as collectives:
            for micro in range(accumulation):
                last = micro == accumulation - 1
                if sharded:
                    model.set_reshard_after_backward(last or sharding[0] != "N")
                    model.set_requires_gradient_sync(last or sharding[1] != "N")
                    model.set_requires_all_reduce(last)
                else:
                    model.require_backward_grad_sync = last
                loss = model(torch.randn(3, 8)).square().mean()
                told["parameters"] = max(told["parameters"], parameters_held(model))
                loss.backward()
                told["gradients"] = max(told["gradients"], gradients_held(model))
            optimizer.step()
        inner = getattr(optimizer, "optim", optimizer)
        told["states"] = sum(
            held([value]) for state in inner.state.values() for value in state.values() if torch.is_tensor(value)
        )
        counted = [one for one in collectives.seen if one[2] > SCALARS]
        told["within"], told["between"] = received(counted, PER_NODE)
        optimizer.zero_grad()
    return told


def worker(directory):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    node = groups_of_nodes()
    told = [measure(*case, node) for case in CASES]
    tell(told, directory)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    return told_by(f"{__name__}:worker", WORLD, tmp_path_factory.mktemp("processes"))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_what_torch_realizes_is_checked(case, measured):
    method, accumulation, sharding = case
    method, refreshing, _ = method.partition(", refreshing")
    rank = {} if method == "AdamW" else {"rank": RANK}
    (report,) = optim.sharding_report(
        shapes(), method, world=WORLD, per_node=PER_NODE, sharding=sharding, accumulation=accumulation, **rank
    )
    assert report.torch
    found = [process[CASES.index(case)] for process in measured]
    for part in ("parameters", "gradients", "states"):
        assert getattr(report, part) == max(one[part] for one in found), part
    refreshes = bool(refreshing) or method in {"LDAdam", "DCTAdamW"}  # which do so at every step
    for part in ("within", "between"):
        wanted = getattr(report, part) + refreshes * getattr(report.refresh, part)
        assert wanted == pytest.approx(sum(one[part] for one in found) / WORLD, abs=1), part


METHODS = [kind.__name__ for kind in optim.METHODS.values()]
MATRIX = {"layers.0.up.weight": (64, 64)}


def row(method, sharding, sizes=MATRIX, *, world=8, per_node=4, **settings):
    (report,) = optim.sharding_report(sizes, method, world=world, per_node=per_node, sharding=sharding, **settings)
    return report


@pytest.mark.parametrize("method", METHODS)
def test_with_nothing_sharded_it_is_the_memory_report(method):
    rank = {} if method == "AdamW" else {"rank": RANK}
    report, whole = row(method, "NNN", shapes(), **rank), optim.memory_report(shapes(), method, **rank)
    assert (report.parameters, report.gradients, report.states) == (whole.weights, whole.gradients, whole.optimizer)


@pytest.mark.parametrize(
    ("sharding", "within", "between"),
    [  # in sizes of the model, with S = 4 of W = 8: an all-gather receives 3/4 in the node and 1/8 from the other
        ("NNN", 2 * 3 / 4, 2 / 8),  # one all-reduce
        ("III", 3 * 3 / 4, 2 / 8),  # two gathers and a scatter in the node, an all-reduce of a quarter across
        ("GGG", 3 * 3 / 4, 3 / 8),  # two gathers and a scatter over all
        ("IGG", 3 * 3 / 4, 2 / 8),
        ("NGG", 2 * 3 / 4, 2 / 8),
        ("NII", 2 * 3 / 4, 2 / 8),
        ("NIG", 2 * 3 / 4, 2 / 8),  # a scatter in the node, an eighth across and back, a gather in the node
        ("IIG", 3 * 3 / 4, 2 / 8),
        ("GIG", 3 * 3 / 4, 3 / 8),
        ("NNG", 3 * 3 / 4, 3 / 8),  # DDP's all-reduce, then parameters from their owners
    ],
)
def test_bytes_received_in_closed_form(sharding, within, between):
    report = row("AdamW", sharding)
    assert (report.within, report.between) == (within * 4 * 64 * 64, between * 4 * 64 * 64)


def test_with_micro_batches_only_what_is_reduced_in_each_counts_again():
    size = 4 * 64 * 64
    for sharding, within, between in [
        ("NNN", 2 * 3 / 4, 2 / 8),
        ("III", 3 * 3 * 3 / 4, 2 / 8),
        ("GGG", 3 * 3 * 3 / 4, 3 * 3 / 8),
        ("NIG", (3 + 1) * 3 / 4, 2 / 8),  # what PaRO is about: between nodes once a step
        ("NGG", (3 + 1) * 3 / 4, (3 + 1) / 8),
    ]:
        report = row("AdamW", sharding, accumulation=3)
        assert (report.within, report.between) == (within * size, between * size), sharding


def test_frozen_parameters_are_gathered_where_fsdp_does_it_and_never_reduced():
    """Two equal matrices of which one is frozen, by hand: what is gathered counts twice, what is reduced once."""
    model = nn.Sequential(nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False))
    model[0].requires_grad_(False)
    size = 4 * 64 * 64
    for sharding, within, between in [
        ("NNN", 2 * 3 / 4, 2 / 8),  # DDP reduces the trained one
        ("NNG", (2 + 1) * 3 / 4, (2 + 1) / 8),  # ZeroRedundancyOptimizer broadcasts the trained one
        ("NGG", (1 + 2) * 3 / 4, (1 + 2) / 8),  # fully_shard scatters the trained one, gathers both
        ("III", (2 * 2 + 1) * 3 / 4, 2 / 8),
        ("GGG", (2 * 2 + 1) * 3 / 4, (2 * 2 + 1) / 8),
    ]:
        report = row("AdamW", sharding, model)
        assert (report.within, report.between) == (within * size, between * size), sharding


def test_half_of_the_combinations_are_excluded_and_those_of_the_paper_are_not():
    reports = optim.sharding_report(MATRIX, "AdamW", world=8, per_node=4, accumulation=2)
    assert len(reports) == 27
    kept = {report.sharding for report in reports if report.excluded is None}
    assert len(kept) == 14
    assert kept > {"NIG", "NII", "ING", "IIG", "IGG"}  # which its code implements
    assert kept > {"NNN", "NNG", "NGG", "III", "GGG"}  # DDP, ZeRO-1 to 3, MiCS
    assert {report.sharding for report in reports if report.torch} == set(REALIZED[2])
    assert kept - set(REALIZED[2]) == {"NIG", "IIG", "GIG"}


@pytest.mark.parametrize(("per_node", "letter", "instead"), [(8, "I", "G"), (1, "I", "N")])
def test_where_there_is_no_group_between_one_and_all(per_node, letter, instead):
    reports = optim.sharding_report(MATRIX, "AdamW", world=8, per_node=per_node, accumulation=2)
    by_name = {report.sharding: report for report in reports}
    for report in reports:
        if letter in report.sharding:
            assert report.excluded.endswith(f"as {report.sharding.replace(letter, instead)}")
            assert report.torch is None
    assert all(report.between == 0 for report in reports if per_node == 8)
    assert by_name["III"].states == by_name[3 * instead].states


def test_a_basis_is_whole_where_the_unsharded_side_is_projected():
    """The numbers of a 4096 x 11008 matrix, rank 1024, on 8 processes: 3.3 million each, else 12.3."""
    settings = {"sizes": {"layers.0.down_proj.weight": (4096, 11008)}, "per_node": 8, "rank": 1024}
    cut, whole = (row("GaLore", "GGG", side=side, **settings) for side in ("auto", "sharded"))
    assert cut.states == 4 * (4096 * 1024 + 2 * 1024 * 11008) / 8
    assert whole.states == 4 * (11008 * 1024 + 2 * 1024 * 4096 / 8)
    assert cut.exchanged.within == 4 * 2 * 1024 * 11008 * 7 / 8
    assert whole.exchanged.within == 0


@pytest.mark.parametrize(
    ("method", "numbers"),
    [("GaLore", 2 * 8), ("GrassWalk", 2 * 8 + 2), ("APOLLO", 8 + 2), ("RSO", 2 * 8), ("BAdam", 0), ("AdamW", 0)],
)
def test_a_low_rank_step_exchanges_some_numbers_per_column(method, numbers):
    rank = {} if method == "AdamW" else {"rank": 8}
    for shape, columns in [((64, 96), 96), ((64, 64), 64), ((96, 64), 0)]:  # rows are cut: tall ones need nothing
        report = row(method, "III", {"layers.0.up.weight": shape}, **rank)
        assert report.exchanged.within == 4 * numbers * columns * 3 / 4
        assert report.exchanged.between == 0


def test_small_states_do_not_pay():
    few, many = (row("GrassWalk", "NGG", {"up.weight": (64, 640)}, rank=rank) for rank in (1, 64))
    assert (few.pays, many.pays, row("AdamW", "NNN").pays) == (False, True, None)


def test_seconds_are_bytes_over_bandwidths():
    report = row("AdamW", "GGG", intra=100, inter=10)
    assert report.seconds == pytest.approx(report.within / 100e9 + report.between / 10e9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"per_node": 3}, "per_node=3 does not divide world=8: all nodes have equally many processes"),
        ({"world": 1}, "world must be a whole number of at least 2, got 1"),
        ({"sharding": "GGGG"}, "there is no sharding 'GGGG'; nearest: GGG (known: all, NNN, "),
        ({"sharding": ["all", "GGG"]}, "there is no sharding 'all' beside others"),
        ({"sharding": []}, "sharding names no combination; give 'all', or some of NNN ... GGG"),
        ({"side": "both"}, "side must be one of 'auto', 'left', 'right', 'sharded', got 'both'"),
        ({"side": "sharded"}, "side='sharded' has no effect on AdamW, which projects nothing; leave it out"),
        ({"accumulation": 0}, "accumulation must be a whole number of at least 1, got 0"),
        ({"intra": 100}, "inter is needed for a time, too: the bandwidth of a device, GB/s"),
        ({"intra": 0, "inter": 1}, "intra must be a positive number, got 0"),
        ({"per_node": 8, "inter": 10, "intra": 1}, "inter=10 has no effect on one node; leave it out"),
        ({"per_node": 1, "inter": 10, "intra": 1}, "intra=1 has no effect with one process per node; leave it out"),
        ({"rnk": 3}, "AdamW has no option 'rnk'"),
    ],
    ids=str,
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        optim.sharding_report(MATRIX, "AdamW", **{"world": 8, "per_node": 4, **settings})
    assert str(error.value).startswith(message)
