"""The optimizer of a training run: AdamW or any method of `subspace_lab.optim`, by its name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from subspace_lab.optim import BAdam, GoLore, from_plan, method_named, param_groups
from subspace_lab.optim.from_plan import read_plan
from subspace_lab.optim.options import OPTIONS, check_known, check_options, defaults_of
from subspace_lab.optim.subspace_adam import SubspaceAdam, options_with
from subspace_lab.training.config import TrainConfig
from subspace_lab.training.presets import preset

_FIELDS = ("lr", "rank", "betas", "weight_decay", "update_interval", "scale")  # settings of the run, no further options
_USELESS = {
    "on_nonfinite": "a training run stops at a gradient that is not finite",
    "freeze_inactive": "a training run captures the gradients of all blocks",
    "stochastic_rounding": "the weights of a training run are float32",
    "block": "in a training run a block is a layer of the model",
}
_ADAMW = ("eps",)
# Options that came later, with the values at which trainings are those of before, and so is their identity.
_LATER = {"limiter": "after_bias_correction"}
_PLAN = "plan"  # option of SubspaceAdam in a training run: the path of a plan
_INFORMED = (4, 5)  # share of the steps after which GoLore's bases are random, as in its scripts


def build_optimizer(model: torch.nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer of a configuration over a model's trainable parameters.

    Matrices of attention and MLP get the rank; embeddings, head, norms and biases are full-rank AdamW.

    Args:
        model: On its device already.
        config: A configuration from `settle_optimizer`.

    Returns:
        The optimizer.
    """
    kind = method_named(config.optimizer)
    shared: dict[str, Any] = {"lr": config.lr, "betas": config.betas, "weight_decay": config.weight_decay}
    further = config.optimizer_options or {}
    if kind is torch.optim.AdamW:
        return kind(_adamw_groups(model, config), fused=True, **shared, **further)
    own: dict[str, Any]
    optimizer: torch.optim.Optimizer
    if _PLAN in further:
        own = {"scale": config.scale, "seed": config.seed, **further}
        optimizer = from_plan(model, own.pop(_PLAN), **shared, **own)
    else:
        own = {"update_interval": config.update_interval, "scale": config.scale, "seed": config.seed}
        in_blocks = issubclass(kind, BAdam) and _has_own_rest(config)  # it has no use for a rank, its groups have rates
        groups = param_groups(model, rank=1 if in_blocks else config.rank)
        optimizer = kind(groups, **{**shared, **own, **further})
    if _has_own_rest(config):
        for group in optimizer.param_groups:
            if group["rank"] is None:
                group["lr"] = config.lr_rest
    return optimizer


def _adamw_groups(model: torch.nn.Module, config: TrainConfig) -> list[Any]:
    """All trainable parameters; those without a rank in a group of their own where they have a rate of their own."""
    if not _has_own_rest(config):
        return [p for p in model.parameters() if p.requires_grad]
    groups = param_groups(model, rank=1)  # which rank does not matter: which matrices would have one does
    return [{"params": group["params"], **({} if group["rank"] else {"lr": config.lr_rest})} for group in groups]


def _has_own_rest(config: TrainConfig) -> bool:
    """Whether what has no rank has a learning rate of its own."""
    return config.lr_rest is not None and config.lr_rest != config.lr


def plan_of(config: TrainConfig) -> Any:
    """The content of the plan that a configuration names.

    Args:
        config: Any configuration.

    Returns:
        What is in the file now; None without a plan.

    Raises:
        ValueError: If the file is missing, cannot be read or is not JSON.
    """
    options = config.optimizer_options or {}
    if _PLAN not in options:
        return None
    if not isinstance(path := options[_PLAN], str):
        raise ValueError(f"plan must be the path of a plan, which subspace-lab recommend RUN_DIR writes, got {path!r}")
    try:
        return read_plan(path)
    except OSError as error:
        raise ValueError(f"the plan {path} cannot be read ({error.strerror})") from error


def settle_optimizer(config: TrainConfig) -> TrainConfig:
    """The configuration with the optimizer's settings filled in and checked, before any work is done.

    Args:
        config: A resolved configuration.

    Returns:
        The configuration with ``optimizer``, ``betas``, ``optimizer_options`` and, as far as the optimizer has them,
        ``rank``, ``update_interval`` and ``scale`` filled in.

    Raises:
        ValueError: If there is no such optimizer, or a setting is unknown, impossible, without effect or missing, or
            the file of a plan cannot be read.
    """
    kind = method_named(config.optimizer)
    own: dict[str, Any] = dict(getattr(kind, "changed", {}))
    config = with_beta2(config, own.get("betas", OPTIONS["betas"].default))
    size = preset(config.preset) if config.preset else None
    published = size.update_interval if size else None
    defaults = {
        "rank": size.usual_rank if size else None,
        "update_interval": own.get("update_interval") or published or OPTIONS["update_interval"].default,
        "scale": own.get("scale", OPTIONS["scale"].default),
    }
    takes = settings_of(kind, config.optimizer_options)
    given = {name: getattr(config, name) for name in defaults}
    for name, value in given.items():
        if value is not None and name not in takes:
            raise ValueError(f"{name}={value} has no effect on {kind.__name__}; leave it out")
    if "rank" in takes and given["rank"] is defaults["rank"] is None:
        raise ValueError(f"{kind.__name__} on a pretrained model needs a rank; a quarter of the model's width is usual")
    settled = {name: defaults[name] if given[name] is None else given[name] for name in takes}
    betas = config.betas or own.get("betas", OPTIONS["betas"].default)
    options = _checked(kind, config)
    plan_of(config)  # one that cannot be read is refused before any work
    return dataclasses.replace(
        config, optimizer=method_key(config.optimizer), betas=betas, optimizer_options=options, **settled
    )


def with_beta2(config: TrainConfig, usual: tuple[float, float]) -> TrainConfig:
    """The configuration with the option ``beta2``, which leaves beta1 to the optimizer, as part of its ``betas``.

    Args:
        config: Any configuration.
        usual: The decay rates of which it keeps the first one where it says none.

    Returns:
        A configuration without that option.

    Raises:
        ValueError: If it is not in [0, 1).
    """
    options = dict(config.optimizer_options or {})
    if (beta2 := options.pop("beta2", None)) is None:
        return config
    beta1 = (config.betas or usual)[0]
    return dataclasses.replace(config, betas=(beta1, beta2), optimizer_options=options or None)


def revision_of(config: TrainConfig) -> dict[str, int]:
    """Which revision of the shipped optimizer a configuration uses, counted up when the same settings train otherwise.

    Args:
        config: Any configuration.

    Returns:
        Class name to revision.
    """
    kind = method_named(config.optimizer)
    return {kind.__name__: getattr(kind, "revision", 1)}


def filled_options(config: TrainConfig) -> dict[str, Any]:
    """The optimizer's further settings with the defaults of those that are not given.

    Args:
        config: From `settle_optimizer`.

    Returns:
        Name to value; torch's AdamW and a plan have what is given. An option that came later is left out at the value
        with which trainings are those of before, so that results from before it are found.
    """
    kind, given = method_named(config.optimizer), dict(config.optimizer_options or {})
    if not hasattr(kind, "options") or _PLAN in given:
        return given
    names = options_with(given) if kind is SubspaceAdam else kind.options
    own = [name for name in names if name not in {*_FIELDS, *_USELESS}]
    filled = {**defaults_of(own, getattr(kind, "changed", {})), **given}
    return {name: value for name, value in filled.items() if name not in _LATER or value != _LATER[name]}


def method_key(name: str) -> str:
    """The name of an optimizer as a manifest has it.

    Args:
        name: Of any case, with or without hyphens.

    Returns:
        The name of the class in small letters: for a method its key in `METHODS`.
    """
    return method_named(name).__name__.lower()


def settings_of(kind: type[torch.optim.Optimizer], options: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """Which of ``rank``, ``update_interval`` and ``scale``, the settings that not all optimizers have, this one has.

    Args:
        kind: The optimizer.
        options: Its further options; a plan says rank and interval layer by layer.

    Returns:
        Names.
    """
    if kind is torch.optim.AdamW:
        return ()
    if options and _PLAN in options:
        return ("scale",)
    return ("update_interval", "scale") if issubclass(kind, BAdam) else ("rank", "update_interval", "scale")


def _checked(kind: type[torch.optim.Optimizer], config: TrainConfig) -> dict[str, Any]:
    options = dict(config.optimizer_options or {})
    if "recovery" in options and options["recovery"] is None:  # the word, which a command line reads as no value
        options["recovery"] = "none"
    for name in options:
        if name in _FIELDS:
            raise ValueError(f"optimizer_options: {name} is a setting of its own; give --{name.replace('_', '-')}")
        if name in _USELESS:
            raise ValueError(f"optimizer_options: {name} has no use here, {_USELESS[name]}; leave it out")
    known: tuple[str, ...] = getattr(kind, "options", _ADAMW)
    if kind is SubspaceAdam:
        known = (_PLAN, *options_with({name: value for name, value in options.items() if name != _PLAN}))
    check_known(options, [name for name in known if name not in {*_FIELDS, *_USELESS}], kind.__name__)
    check_options({name: value for name, value in options.items() if name != _PLAN})
    if issubclass(kind, GoLore) and config.steps is not None:
        share, whole = _INFORMED
        options.setdefault("random_after", config.steps * share // whole)
    return options
