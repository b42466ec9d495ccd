"""Variants of a training: methods with their settings, resolved into the configurations of trials."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from subspace_lab._checks import is_number
from subspace_lab._text import named_settings
from subspace_lab.experiments.recipe import content_of
from subspace_lab.experiments.trial import Plain, Trial
from subspace_lab.optim import method_named
from subspace_lab.training import TrainConfig
from subspace_lab.training.memory import state_bytes
from subspace_lab.training.optimizers import method_key, settings_of, settle_optimizer

Methods = Sequence[str] | Mapping[str, Mapping[str, Any]]
_CHOSEN = {
    "optimizer": "the methods set it",
    "optimizer_options": "give them with a method, as in 'grasswalk:walk_step=0.05'",
    "lr": "the grid sets it; give lrs",
    "seed": "seeds says how many, from 0 on",
    "every": "its trainings capture no gradients, since they are timed",
    "keep": "its trainings capture no gradients",
    "layers": "its trainings capture no gradients",
}
_SAME_FOR_ALL = {  # weights, batches, evaluation, and how it is timed
    "preset", "model", "task", "data", "columns", "tokenizer", "vocab_size", "steps", "batch_size", "accumulation",
    "sequence_length", "precision", "threads", "eval_every", "eval_batches",
}  # fmt: skip
_SOME_HAVE = ("rank", "update_interval", "scale")
_OF_METHODS = (*_SOME_HAVE, "betas", "warmup")  # whose defaults are the methods'


@dataclass(eq=False)
class Trainings:
    """Makes the trials of variants of one training configuration.

    Attributes:
        base: From `common_config`.
        methods: Settings by variant, from `parse_methods`.
        data_hash: Of the rows that all of them read; any text where nothing is trained.
        more: Settings of every trial beside those of its variant, for captures for example.
        factors: Further factors of every trial.
        prefix: Of the trials' labels.
    """

    base: TrainConfig
    methods: Mapping[str, Mapping[str, Any]]
    data_hash: str
    more: Mapping[str, Any] = field(default_factory=dict)
    factors: Mapping[str, Plain] = field(default_factory=dict)
    prefix: str = ""
    _made: dict[tuple[Any, ...], Trial] = field(default_factory=dict, init=False)

    def __call__(self, variant: str, setting: Mapping[str, Plain], seed: int, phase: str) -> Trial:
        """The trial of a variant with a setting (fields of `TrainConfig`, and beta2) and a seed."""
        key = (variant, tuple(setting.items()), seed)
        if key not in self._made:
            config = self.config(variant, setting, seed)
            words = [variant, *(f"{name}{value:g}" for name, value in setting.items()), f"seed{seed}"]
            self._made[key] = Trial(
                {**factors_of(variant, config), **self.factors}, "train", config.to_dict(),
                content_of("train", config.to_dict(), data_hash=self.data_hash), label=self.prefix + "_".join(words),
            )  # fmt: skip
        return self._made[key].with_factors(phase=phase)

    def config(self, variant: str, setting: Mapping[str, Plain], seed: int) -> TrainConfig:
        """The resolved configuration; ValueError if a setting (a field of `TrainConfig`, or beta2) is not valid."""
        settings = {**self.methods[variant], **self.more, **setting}
        fields = {one.name for one in dataclasses.fields(TrainConfig)}
        changes = {name: value for name, value in settings.items() if name in fields}
        options = {name: value for name, value in settings.items() if name not in fields}
        options |= changes.pop("optimizer_options", None) or {}
        has = settings_of(method_named(changes["optimizer"]), options)
        without = {name: None for name in _SOME_HAVE if name not in has}
        if "steps" in changes:
            without["warmup"] = None  # its default is a share of the steps
        changed = {**without, **changes, "optimizer_options": options, "seed": seed}
        return settle_optimizer(dataclasses.replace(self.base, **changed).resolved())


def factors_of(variant: str, config: TrainConfig) -> dict[str, Plain]:
    """What varies between trainings, except for the phase; `variant` is the method's name in the tables."""
    assert config.betas is not None
    return {
        "method": variant, "preset": config.preset or Path(str(config.model)).name, "steps": config.steps,
        "lr": config.lr, "lr_rest": config.lr if config.lr_rest is None else config.lr_rest,
        "beta2": config.betas[1], "warmup": config.warmup, "seed": config.seed,
    }  # fmt: skip


def parse_methods(methods: Methods) -> dict[str, dict[str, Any]]:
    """The methods by their names in the tables, with the settings in which they differ.

    Args:
        methods: Names of optimizers, with settings where there are any (``"grasswalk:rank=16"``); or settings by a
            name of your own, ``"optimizer"`` among them: ``{"walk 16": {"optimizer": "grasswalk", "rank": 16}}``. A
            setting that is not a field of `TrainConfig` is an option of the optimizer.

    Returns:
        Name to settings.

    Raises:
        ValueError: If the list is empty, has a method twice, or an optimizer is not known.

    >>> parse_methods(["GrassWalk:walk-step=0.05:rank=16"])
    {'grasswalk:walk_step=0.05:rank=16': {'optimizer': 'grasswalk', 'walk_step': 0.05, 'rank': 16}}
    """
    if isinstance(methods, str):
        raise ValueError(f"methods must be a list of names, got the text {methods!r}; write [{methods!r}]")
    if isinstance(methods, Mapping):
        found = {_label(name): _canonical(name, settings) for name, settings in methods.items()}
    else:
        found = {}
        for name, settings in map(_parsed, methods):
            if name in found:
                raise ValueError(f"methods has {name} twice; leave one out")
            found[name] = settings
    if not found:
        raise ValueError("methods is empty; name at least one optimizer, grasswalk or adamw for example")
    return found


def rates(lrs: Sequence[float]) -> list[dict[str, float]]:
    """The settings of a grid of peak learning rates, one per rate; ValueError if one is not positive or is repeated."""
    if isinstance(lrs, str) or not isinstance(lrs, Sequence):
        raise ValueError(f"lrs must be a list of numbers, got {lrs!r}; write [{lrs!r}]")
    if not lrs:
        raise ValueError("lrs is empty; give at least one learning rate, 1e-3 for example")
    for lr in lrs:
        if not is_number(lr) or lr <= 0:
            raise ValueError(f"lrs must be positive numbers, got {lr!r}")
        if list(lrs).count(lr) > 1:
            raise ValueError(f"lrs has {lr:g} twice; leave one out")
    return [{"lr": float(lr)} for lr in lrs]


def common_config(config: TrainConfig, before: TrainConfig | None = None) -> TrainConfig:
    """What all trials of a comparison have in common.

    Args:
        config: What was asked for.
        before: What they have in common already, where a comparison is continued; it fills what `config` leaves open.

    Returns:
        A configuration without a learning rate, otherwise resolved; it captures nothing and, unless it says otherwise,
        trains on one thread.

    Raises:
        ValueError: If it sets what the trials set, never evaluates, or differs from the earlier one.
    """
    defaults = TrainConfig()
    for name, why in _CHOSEN.items():
        if (value := getattr(config, name)) not in (getattr(defaults, name), None):
            raise ValueError(f"{name}={value!r} has no use in a comparison: {why}")
    if config.eval_every is None:
        raise ValueError("a comparison needs the held-out loss; leave out eval_every=None")
    asked = dataclasses.replace(config, every=None, lr=None)
    if before is not None:
        return asked.matched(before)
    return dataclasses.replace(asked.resolved(), lr=None, threads=config.threads or 1)


def left_open(config: TrainConfig) -> TrainConfig:
    """The configuration of a run without the settings of single trials and methods, to give to a comparison."""
    defaults = TrainConfig()
    names = (*_CHOSEN, *_OF_METHODS, "threads", "sharding")
    return TrainConfig.from_dict({**config.to_dict(), **{x: getattr(defaults, x) for x in names}, "every": None})


def check_shared(methods: Mapping[str, Mapping[str, Any]]) -> None:
    """ValueError if a method has a setting that all of them must share to be compared."""
    for name, settings in methods.items():
        for key in sorted(settings.keys() & _SAME_FOR_ALL):
            raise ValueError(f"method {name!r}: {key} must be the same for all methods; give it for the comparison")


def check_used(base: TrainConfig, methods: Iterable[Mapping[str, Any]]) -> None:
    """ValueError if a common setting has an effect on none of the methods."""
    used = {name for settings in methods for name in settings_of(method_named(settings["optimizer"]))}
    for name in _SOME_HAVE:
        if (value := getattr(base, name)) is not None and name not in used:
            raise ValueError(f"{name}={value} has no effect on any of the methods; leave it out")


def _parsed(text: str) -> tuple[str, dict[str, Any]]:
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"methods must be names of optimizers, got {text!r}")
    name, more = named_settings(text)
    if "optimizer" in more:
        raise ValueError(f"{text!r} says optimizer twice; leave one out")
    settings = {"optimizer": method_key(name), **more}
    label = ":".join([settings["optimizer"], *(f"{k}={v}".lower() for k, v in settings.items() if k != "optimizer")])
    return label, _canonical(label, settings)


def _label(name: str) -> str:
    if not isinstance(name, str) or not name.strip() or name.startswith("_"):
        raise ValueError(f"the name of a method must be a text that does not begin with an underscore, got {name!r}")
    return name


def _canonical(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(settings, Mapping):
        raise ValueError(f"method {name!r}: settings must be a mapping such as {{'rank': 16}}, got {settings!r}")
    values = {"optimizer": name, **settings}
    for key in ("lr", "seed"):
        if key in values:
            raise ValueError(f"method {name!r}: {key} is chosen by the grid; leave it out")
    return {**values, "optimizer": method_key(values["optimizer"])}


def describe(trial: Trial) -> dict[str, int | None]:
    """The bytes of the optimizer's state by formula."""
    plan = trial.content["optimizer_options"].get("plan")
    return {"state_bytes_formula": state_bytes(TrainConfig.from_dict(trial.config), plan)}


OF_TRAININGS: dict[str, Any] = {  # fields of every `Kind` whose trials are trainings
    "columns": {"state_bytes_formula": "Int64"},
    "describe": describe,
    "shares": ("bulk_share", "recovery_share", "limiter", "limited_share"),
}
