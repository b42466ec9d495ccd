"""What the processes of `test_sharded` do: gradients known in advance, sharded in many ways, and captured."""

import math
import warnings
import weakref
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed, nn
from torch.utils._python_dispatch import TorchDispatchMode

import subspace_lab as sl
from subspace_lab.capture import record, together

SHAPES = {
    "tall": (13, 6),
    "wide": (6, 15),
    "square": (7, 7),
    "few_rows": (3, 8),  # fewer than processes
    "conv": (9, 2, 2, 1),
    "experts": (4, 6, 5),
}
KEEPS = ("full", "gram", "topk:3", "stats")
STEPS = 2
LAYOUTS = {2: ("rows", "columns", "replicated", "sums"), 4: ("rows", "hybrid", "both", "part")}
FAILING = {2: ("rows", "sums"), 4: ("rows", "both")}


class Holder(nn.Module):
    """A module of one parameter."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)


def gradient(name, step, dtype=torch.float64):
    """The same in every process."""
    generator = torch.Generator().manual_seed(1000 * step + list(SHAPES).index(name))
    return torch.randn(SHAPES[name], generator=generator, dtype=torch.float64).to(dtype)


def model_of(wrap, dtype=torch.float64):
    return nn.ModuleDict({name: Holder(wrap(torch.zeros(shape, dtype=dtype))) for name, shape in SHAPES.items()})


def plain_run(directory, keep, dtype=torch.float64):
    """The run that one process writes."""
    model = model_of(lambda tensor: tensor, dtype)
    with sl.GradientCapture(model, directory, every=1, keep=keep) as capture:
        for step in range(STEPS):
            for name, holder in model.items():
                holder.weight.grad = gradient(name, step, dtype)
            capture.step(step)
    return sl.Run.open(directory, write=True)


class Layout:
    """How tensors are sharded over the processes."""

    def __init__(self, kind):
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor import Partial, Replicate, Shard

        size = distributed.get_world_size()
        shape = (2, 2) if kind in {"hybrid", "both", "part"} else (size,)
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=("outer", "inner")[: len(shape)])
        self.mesh = mesh["inner"] if kind == "part" else mesh
        self.placements = {
            "rows": [Shard(0)],
            "columns": [Shard(1)],
            "replicated": [Replicate()],
            "sums": [Replicate()],
            "hybrid": [Replicate(), Shard(0)],
            "both": [Shard(0), Shard(1)],
            "part": [Shard(1)],  # tensor parallel, and replicated over the other dimension without saying so
        }[kind]
        self.of_gradients = [Partial()] if kind == "sums" else self.placements

    def wrap(self, tensor):
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(tensor, self.mesh, self.placements, src_data_rank=None)

    def wrap_gradient(self, tensor):
        from torch.distributed.tensor import DTensor

        if self.of_gradients is self.placements:
            return self.wrap(tensor)
        return DTensor.from_local(tensor / self.mesh.size(), self.mesh, self.of_gradients)


def capture_all(directory, layout, keep, dtype=torch.float64, spoil=None, every=1, **options):
    """Capture the known gradients; lines of warnings."""
    model = model_of(layout.wrap, dtype)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with sl.GradientCapture(model, directory, every=every, keep=keep, **options) as capture:
            for step in range(STEPS):
                for name, holder in model.items():
                    holder.weight.grad = layout.wrap_gradient(gradient(name, step, dtype))
                if spoil is not None:
                    spoil(step, model)
                capture.step(step)
    return [str(one.message) for one in said if issubclass(one.category, UserWarning)]


class Large(TorchDispatchMode):
    """New tensors of at least so many bytes: how many there were, and how many at once."""

    def __init__(self, least):
        super().__init__()
        self._least, self._alive, self._seen = least, {}, set()
        self.at_once = self.in_all = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self._alive = {key: known for key, known in self._alive.items() if known() is not None}
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if type(tensor) is torch.Tensor and tensor.untyped_storage().nbytes() >= self._least:
                key = tensor.untyped_storage().data_ptr()
                self.in_all += key not in self._alive
                self._alive.setdefault(key, weakref.ref(tensor))
        self.at_once = max(self.at_once, len(self._alive))
        return result


class Full(TorchDispatchMode):
    """Memory that has no room for so many numbers at once."""

    def __init__(self, most):
        super().__init__()
        self._most = most

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.new_empty.default and math.prod(args[1]) > self._most:
            raise RuntimeError("planted")
        return function(*args, **(kwargs or {}))


def ceiling(directory, name, shape):
    """How many gradients of a model of eight alike were whole in this process, and how many of them at once."""
    layout = Layout("rows")
    model = nn.ModuleDict({f"{name}_{number}": Holder(layout.wrap(torch.zeros(shape))) for number in range(8)})
    for holder in model.values():
        holder.weight.grad = layout.wrap(torch.ones(shape))
    large = Large(torch.empty(shape).nbytes)
    with sl.GradientCapture(model, directory, every=1, keep="gram") as capture, large:
        capture.step(0)
    return large.at_once, large.in_all


def spoiled(step, model):
    """A gradient that is not finite, in one shard of the first step."""
    if step == 0:
        for name in ("tall", "wide"):
            local = model[name].weight.grad.to_local()
            if distributed.get_rank() == 1:
                local[0, :2] = float("nan")


def failing(directory, layout, how, **options):
    """What is said, and whether something is raised, where one process fails while it captures."""
    rank = distributed.get_rank()

    def fail(*_args, **_options):
        raise RuntimeError("planted")

    try:
        if how == "reduction":
            together.add_gradient, before = (fail if rank == 1 else together.add_gradient), together.add_gradient
            try:
                return capture_all(directory, layout, "stats", **options), None
            finally:
                together.add_gradient = before
        if how == "gradient":

            def spoil(step, model):
                if rank == 1 and step == 1:
                    model["wide"].weight.grad = None

            return capture_all(directory, layout, "gram", spoil=spoil, **options), None
        if how == "memory":
            before = together.send_to_owner

            def cramped(*of):
                with Full(math.prod(SHAPES["wide"]) - 1 if rank == 1 else math.inf):
                    return before(*of)

            together.send_to_owner = cramped
            try:
                return capture_all(directory, layout, "gram", **options), None
            finally:
                together.send_to_owner = before
        if how == "before":  # what is left of the step before, once
            planted, end = iter([fail] if rank == 1 else []), record.Recorder._end_step
            record.Recorder._end_step = lambda *of, **how: next(planted, end)(*of, **how)
            try:
                return capture_all(directory, layout, "gram", **options), None
            finally:
                record.Recorder._end_step = end
        if how == "writing":

            def spoil(step, model):
                if rank == 0 and step == 1:
                    (directory / "snapshots").rename(directory / "gone")
                    (directory / "snapshots").write_text("")

            return capture_all(directory, layout, "gram", spoil=spoil, **options), None
        if how == "settings":
            return capture_all(directory, layout, "gram", every=2 if rank == 1 else 1, **options), None
        layers = "tall.*" if rank == 1 else None  # other layers than the others
        return capture_all(directory, layout, "gram", layers=layers, **options), None
    except Exception as error:
        return [], f"{type(error).__name__}: {error}"


def trained(directory, kind):
    """Gradients of a training: FSDP2, tensor parallel, and both on a mesh of two dimensions."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    model, loss_of, data = toy()
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    if kind == "fsdp2 x tp":
        plan = {"up_proj": ColwiseParallel(), "down_proj": RowwiseParallel()}
        parallelize_module(model, mesh["tp"], plan)
        fully_shard(model, mesh=mesh["dp"])
        share = mesh["dp"].get_local_rank()
    else:
        fully_shard(model.up_proj, mesh=mesh)
        fully_shard(model, mesh=mesh)
        share = distributed.get_rank()
    shares = 4 if kind == "hsdp" else 2
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with sl.GradientCapture(model, directory, every=1, keep="full") as capture:
        capture.attach(optimizer)
        for batch in data:
            loss_of(model, batch.chunk(shares)[share]).backward()
            capture.log(loss=0.0)
            optimizer.step()
            optimizer.zero_grad()


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.up_proj, self.down_proj = nn.Linear(6, 12, bias=False).double(), nn.Linear(12, 5, bias=False).double()

    def forward(self, inputs):
        return self.down_proj(torch.tanh(self.up_proj(inputs)))


def toy():
    """A model, its loss, and batches of four rows."""
    generator = torch.Generator().manual_seed(1)
    data = [torch.randn(4, 6, dtype=torch.float64, generator=generator) for _ in range(STEPS)]
    return Toy(), lambda model, batch: model(batch).square().mean(), data


def main(directory):
    """All cases of a number of processes; what they return is in a file of each process."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", timeout=timedelta(seconds=120))
    rank, size = distributed.get_rank(), distributed.get_world_size()
    root, said = Path(directory), {}
    for kind in LAYOUTS[size]:
        layout = Layout(kind)
        for keep in KEEPS:
            said[f"{kind} {keep}"] = capture_all(root / f"{kind}_{keep.replace(':', '')}", layout, keep)
        said[f"{kind} float32"] = capture_all(root / f"{kind}_float32", layout, "gram", torch.float32)
    rows = Layout("rows")
    for keep in KEEPS:
        said[f"nonfinite {keep}"] = capture_all(root / f"nonfinite_{keep.replace(':', '')}", rows, keep, spoil=spoiled)
    for kind in FAILING[size]:
        for how in ("reduction", "gradient", "memory", "before", "writing", "layers", "settings"):
            for on_error in ("warn", "raise"):
                case = f"{kind} {how} {on_error}"
                said[case] = failing(root / case.replace(" ", "_"), Layout(kind), how, on_error=on_error)
    said["ceiling tall"] = ceiling(root / "ceiling_tall", "tall", (256, 64))
    said["ceiling wide"] = ceiling(root / "ceiling_wide", "wide", (64, 256))
    for kind in ("hsdp", "fsdp2 x tp") if size == 4 else ():
        trained(root / kind.replace(" ", "_"), kind)
    torch.save(said, root / f"said_{rank}.pt")
    distributed.barrier()
