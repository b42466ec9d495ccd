"""Checkpoints: model and optimizer after a number of steps, one file each, in the format of the snapshots.

Tensors are ``model:<name>`` and ``optimizer:<parameter index>.<key>``; numbers of the optimizer's state and its
settings are in the JSON metadata, and a checksum is over everything. The position in the data, the learning rate and
the seed of any dropout follow from the step, so that there is nothing else to keep. Of a model with adapters only these
are kept, with a fingerprint of the weights that they were trained on. Sharded tensors are gathered one by one: a
checkpoint is the same file whatever wrote it, and says how the optimizer's were sharded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from subspace_lab.runs import RunError
from subspace_lab.runs.files import confined
from subspace_lab.runs.snapshot import Snapshot, steps_in, write_snapshot
from subspace_lab.training.adapters import fingerprint, frozen_beside_adapters
from subspace_lab.training.hooks import Stateful
from subspace_lab.training.sharding import gathered, sharded_like


def checkpoint_steps(run_dir: Path) -> list[int]:
    """The steps after which there is a checkpoint, ascending."""
    return steps_in(run_dir / "checkpoints")


def checkpoint_path(run_dir: Path, step: int) -> Path:
    """Where the checkpoint after so many steps lies; inside the run directory, whatever links there are."""
    return confined(run_dir, run_dir / "checkpoints" / f"step_{step:08d}.safetensors")


def save_checkpoint(
    run_dir: Path,
    step: int,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    further: Stateful | None = None,
    *,
    keep: int = 2,
    writes: bool = True,
) -> None:
    """Publish a checkpoint, then remove all but the last ones; all processes of a sharded model call this.

    Args:
        run_dir: The run directory.
        step: Steps taken.
        model: Its parameters and persistent buffers are kept, tied ones once.
        optimizer: Its state must be tensors and plain numbers or texts.
        further: Whose state is kept beside it: tensors and plain values by name.
        keep: How many are kept.
        writes: Whether this process publishes it, or only takes part in gathering.

    Raises:
        RunError: If it cannot be written.
        ValueError: If the optimizer's state, or the further one, holds anything else.
    """
    held = _held(optimizer)
    state = optimizer.state_dict()
    tensors = {f"model:{name}": tensor for name, tensor in _model_state(model).items()}
    plain: dict[str, dict[str, Any]] = {}
    of_held = {index: values for index, values in state["state"].items() if index in held}
    for index, values in sorted(of_held.items()):  # whatever the order in which states were made or loaded
        for key, value in sorted(values.items()):
            if isinstance(value, Tensor):
                tensors[f"optimizer:{index}.{key}"] = value
            else:
                plain.setdefault(str(index), {})[key] = value
    more = {} if further is None else further.state_dict()
    tensors |= {f"further:{name}": value for name, value in more.items() if isinstance(value, Tensor)}
    context = {"step": step, "tensors": [*tensors], "state": plain, "param_groups": state["param_groups"]}
    if further is not None:
        context["further"] = {name: value for name, value in more.items() if not isinstance(value, Tensor)}
    if frozen := frozen_beside_adapters(model):
        context["base"] = fingerprint(frozen)
    if placed := _placements_of(tensors):
        context["placements"] = placed
    on_cpu = {}
    for name, tensor in tensors.items():
        whole = gathered(tensor.detach())
        if writes:
            on_cpu[name] = whole.cpu()
    if not writes:
        return
    try:
        write_snapshot(checkpoint_path(run_dir, step), on_cpu, context, within=run_dir)
    except TypeError as error:
        owners = " or ".join(type(owner).__name__ for owner in (optimizer, further) if owner is not None)
        what = f"the state of {owners} holds more than tensors and plain values ({error})"
        raise ValueError(f"{what}; it cannot be resumed: use another optimizer") from error
    for old in checkpoint_steps(run_dir)[:-keep]:
        checkpoint_path(run_dir, old).unlink()


def load_checkpoint(
    run_dir: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, further: Stateful | None = None
) -> int:
    """Put model and optimizer into the state of the last checkpoint.

    Args:
        run_dir: The run directory.
        model: Built as for a new run.
        optimizer: Built as for a new run.
        further: What else has a state there.

    Returns:
        Steps taken; 0, and nothing is changed, when there is no checkpoint.

    Raises:
        RunError: If the checkpoint is torn, altered, or of another model.
    """
    steps = checkpoint_steps(run_dir)
    if not steps:
        return 0
    with Snapshot(checkpoint_path(run_dir, steps[-1])) as file:
        file.verify()
        _load_model(file, model)
        _load_optimizer(file, optimizer)
        _load_further(file, further)
    return steps[-1]


def load_model(run_dir: Path, step: int, model: torch.nn.Module) -> None:
    """Put a model into the state of a checkpoint.

    Args:
        run_dir: The run directory.
        step: One of `checkpoint_steps`.
        model: Built as for a new run.

    Raises:
        RunError: If the checkpoint is torn, altered, or of another model.
    """
    with Snapshot(checkpoint_path(run_dir, step)) as file:
        file.verify()
        _load_model(file, model)


def load_further(run_dir: Path, step: int, further: Stateful) -> None:
    """Give back the further state of a checkpoint.

    Args:
        run_dir: The run directory.
        step: One of `checkpoint_steps`.
        further: Whose state was kept.

    Raises:
        RunError: If the checkpoint is torn or altered, or has no such state.
    """
    with Snapshot(checkpoint_path(run_dir, step)) as file:
        file.verify()
        _load_further(file, further)


def optimizer_bytes(run_dir: Path, step: int) -> int:
    """Bytes of the optimizer's tensors in a checkpoint.

    Args:
        run_dir: The run directory.
        step: One of `checkpoint_steps`.

    Returns:
        The bytes.
    """
    with Snapshot(checkpoint_path(run_dir, step)) as file:
        names = (name.partition(":") for name in file.context["tensors"])
        tensors = (file.get(part, rest) for part, _, rest in names if part == "optimizer")
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def model_tensors(run_dir: Path, step: int) -> dict[str, Tensor]:
    """The model's tensors in a checkpoint.

    Args:
        run_dir: The run directory.
        step: One of `checkpoint_steps`.

    Returns:
        Name to tensor, tied ones once.
    """
    with Snapshot(checkpoint_path(run_dir, step)) as file:
        file.verify()
        names = [name.partition(":") for name in file.context["tensors"]]
        tensors = {rest: file.get(part, rest) for part, _, rest in names if part == "model"}
        return {name: tensor.clone() for name, tensor in tensors.items() if tensor is not None}


def _held(optimizer: torch.optim.Optimizer) -> set[int]:
    """The parameters that have a state, by number: a ``state_dict`` may have more, for distributed checkpoints."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return {index for index, p in enumerate(parameters) if optimizer.state.get(p)}


def _model_state(model: torch.nn.Module) -> dict[str, Tensor]:
    """The live tensors by name, those that share their memory once; without what adapters leave frozen."""
    first: dict[int, str] = {}
    frozen = frozen_beside_adapters(model)
    state = {name: tensor for name, tensor in model.state_dict().items() if name not in frozen}
    return {name: tensor for name, tensor in state.items() if first.setdefault(_place(tensor), name) == name}


def _place(tensor: Tensor) -> int:
    """Where a tensor, or the shard of it that is here, lies in memory; empty shards lie in storage of their own."""
    local: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return local.data_ptr() or local.untyped_storage().data_ptr()


def _placements_of(tensors: Mapping[str, Tensor]) -> dict[str, list[int | None]]:
    """Of the optimizer's sharded tensors, by dimension of the mesh: the dimension that is sharded, None for none."""
    sharded: dict[str, Any] = {name: t for name, t in tensors.items() if hasattr(t, "placements")}
    return {
        name: [getattr(placement, "dim", None) for placement in tensor.placements]
        for name, tensor in sharded.items()
        if name.startswith("optimizer:")
    }


def _load_model(file: Snapshot, model: torch.nn.Module) -> None:
    if (base := file.context.get("base")) is not None and base != fingerprint(frozen_beside_adapters(model)):
        raise RunError(f"{file.path} has adapters of another model than this one; restore the model it began with")
    fill_model(model, {name: file.get("model", name) for name in _model_state(model)}, file.path)


def fill_model(model: torch.nn.Module, saved: Mapping[str, Tensor | None], path: Path) -> None:
    """Put a model into a saved state, whole or not at all.

    Args:
        model: Built as the saved one was.
        saved: Name to tensor, as `model_tensors` has them.
        path: Where they are from, for the message.

    Raises:
        RunError: If they are of another model.
    """
    state = _model_state(model)
    for name in [*state, *saved]:
        tensor = saved.get(name)
        if name not in state or tensor is None or tensor.shape != state[name].shape:
            how = "not in this one" if name not in state else "missing or of another shape"
            raise RunError(f"{path} is of another model: {name} is {how}; delete it")
    with torch.no_grad():
        for name, tensor in saved.items():
            assert tensor is not None
            state[name].copy_(sharded_like(tensor, state[name]))


def _load_optimizer(file: Snapshot, optimizer: torch.optim.Optimizer) -> None:
    now = optimizer.state_dict()["param_groups"]
    if len(before := file.context["param_groups"]) != len(now):
        raise RunError(
            f"{file.path} has an optimizer of {len(before)} groups, now there are {len(now)}; where a plan made "
            "it, put the plan back as it was"
        )
    groups = [_as_before(saved, group) for saved, group in zip(before, now, strict=True)]
    state: dict[int, dict[str, Any]] = {int(index): dict(v) for index, v in file.context["state"].items()}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    placements = file.context.get("placements", {})
    for full in file.context["tensors"]:
        part, _, name = full.partition(":")
        if part == "optimizer":
            index, _, key = name.partition(".")
            tensor = file.get(part, name)
            assert tensor is not None
            whole = tensor.clone()  # aligned as a tensor of torch's own
            state.setdefault(int(index), {})[key] = _sharded(whole, parameters[int(index)], placements.get(full))
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _sharded(tensor: Tensor, parameter: Tensor, dims: Sequence[int | None] | None) -> Tensor:
    """A tensor of the optimizer's state, sharded as when it was saved, or as its parameter is if it has its shape."""
    if not hasattr(parameter, "device_mesh"):
        return tensor
    if dims is None or len(dims) != parameter.device_mesh.ndim:
        return sharded_like(tensor, parameter) if tensor.shape == parameter.shape else tensor
    from torch.distributed.tensor import Replicate, Shard

    return sharded_like(tensor, parameter, [Replicate() if dim is None else Shard(dim) for dim in dims])


def _load_further(file: Snapshot, further: Stateful | None) -> None:
    plain: dict[str, Any] | None = file.context.get("further")
    if (plain is None) != (further is None):
        there = "a further state, which nobody takes now" if further is None else "no further state"
        raise RunError(f"{file.path} has {there}; resume with the same hooks as the run began with")
    if further is not None and plain is not None:
        parts = (full.partition(":") for full in file.context["tensors"])
        tensors = {name: file.get(part, name) for part, _, name in parts if part == "further"}
        further.load_state_dict({**plain, **{name: t.clone() for name, t in tensors.items() if t is not None}})


def _as_before(saved: Mapping[str, Any], group: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a group as they were, lists of JSON made tuples again where they were tuples."""
    return {key: tuple(value) if isinstance(group.get(key), tuple) else value for key, value in saved.items()}
