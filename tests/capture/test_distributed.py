"""Two processes on the CPU: DDP and FSDP2, against gradients of the whole model computed in one."""

import warnings
from pathlib import Path

import pytest
import torch
from torch import distributed, nn

import subspace_lab as sl
from tests.capture.helpers import batches, mean_gradients, relative_error
from tests.launch import launch

NUM_PROCESSES, STEPS = 2, 3


class Net(nn.Module):
    """Layers whose rows do not divide evenly, or at all, over two processes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.up_proj, self.middle, self.down_proj = nn.Linear(8, 7), nn.Linear(7, 6), nn.Linear(6, 1, bias=False)

    def forward(self, inputs):
        return self.down_proj(torch.tanh(self.middle(torch.tanh(self.up_proj(inputs)))))


def loss_fn(model, batch):
    return model(batch[0]).square().mean()


def data():
    """Batches by step and process."""
    flat = batches(NUM_PROCESSES * STEPS)
    return [flat[NUM_PROCESSES * step : NUM_PROCESSES * (step + 1)] for step in range(STEPS)]


def expected():
    """Gradients before each step of SGD on the mean loss of all processes, without any process group."""
    model, gradients = Net(), []
    for micro in data():
        gradients.append(mean_gradients(model, loss_fn, micro))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter -= 0.5 * gradients[-1][name]
    return gradients


def wrapped(kind):
    model = Net()
    if kind == "ddp":
        return nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (NUM_PROCESSES,))
    for part in (model.up_proj, model.middle):
        fully_shard(part, mesh=mesh)
    return fully_shard(model, mesh=mesh)


KINDS = {"ddp": ("ddp", "full", False), "fsdp2": ("fsdp2", "full", False), "before": ("fsdp2", "gram", True)}


def main(directory):
    """All kinds, in each of the processes."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    for name, (kind, keep, before) in KINDS.items():
        capture_training(Path(directory, name), kind, keep, before)
    distributed.barrier()


def capture_training(run_dir, kind, keep, before):
    rank = distributed.get_rank()
    model = None if before else wrapped(kind)
    bare = Net()
    capture = sl.GradientCapture(bare if before else model, run_dir, every=1, keep=keep, layers="*.weight")
    if before:  # the table is made of the bare model, which is sharded in place afterwards
        from torch.distributed.fsdp import fully_shard

        model = fully_shard(bare)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with capture:
        capture.attach(optimizer)
        for micro in data():
            loss = loss_fn(model, micro[rank])
            loss.backward()
            if rank == 0:  # what one process logs must not keep the others waiting
                capture.log(loss=loss, grad_norm=None)
            optimizer.step()
            optimizer.zero_grad()


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """Where the two processes wrote."""
    root = tmp_path_factory.mktemp("two")
    statuses, text = launch("tests.capture.test_distributed:main", NUM_PROCESSES, root)
    assert statuses == [0, 0], text
    return root


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_gradients_over_processes_are_written_once(launched, name):
    run, keep = sl.Run.open(launched / name), KINDS[name][1]
    assert run.verify() == STEPS
    assert run.metrics["step"].tolist() == list(range(STEPS))
    assert run.layers["name"].tolist() == ["up_proj.weight", "middle.weight", "down_proj.weight"]
    for step, gradients in enumerate(expected()):
        for layer in run.layers.itertuples():
            G = gradients[layer.name]
            if keep == "full":
                assert relative_error(run.gradient(step, layer.name), G) < 1e-5
            C = G.double() @ G.double().T if layer.side == "left" else G.double().T @ G.double()
            assert relative_error(run.gram(step, layer.name), C) < 1e-5
        norm = torch.stack([g.double().norm() for g in gradients.values()]).norm()
        with run.snapshot(step) as snapshot:
            assert snapshot.context["missing"] == []
            assert snapshot.context["grad_norm"] == pytest.approx(float(norm), rel=1e-5)


@pytest.mark.parametrize(
    ("variables", "writes"),
    [
        ({}, True),
        ({"RANK": "3"}, True),  # a variable of somebody else's: there is one process
        ({"WORLD_SIZE": "4", "RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1"}, False),
        ({"WORLD_SIZE": "4", "LOCAL_RANK": "1"}, False),
        ({"WORLD_SIZE": "4", "LOCAL_RANK": "0", "NODE_RANK": "1"}, False),
    ],
)
def test_before_there_is_a_process_group_the_launcher_says_who_writes(variables, writes, tmp_path, monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    model = Net()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    with sl.GradientCapture(model, tmp_path / "run", every=1) as capture, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        capture.step(0)
        capture.step(1)
    assert (tmp_path / "run" / "manifest.json").exists() == writes
    assert [str(one.message).partition(" by this process: variables of its environment")[2][:2] for one in said] == (
        [] if writes else [" ("]  # once; a process that is alone would otherwise never hear of it
    )
