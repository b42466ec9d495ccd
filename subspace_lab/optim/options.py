"""Every option of the optimizers: default, and what it must be. Written once, checked in one place, shown by `help`."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import numpy as np
import torch

from subspace_lab._checks import is_choice, is_decay_rates, is_whole, one_of
from subspace_lab._text import nearest

_SHOWN = 120  # characters of a value in a message
_LARGEST = float(np.finfo(np.float32).max)  # steps are computed in float32, which has to hold a setting
StateDtype = Literal["float32", "float64", "bfloat16"]


class Options(TypedDict, total=False):
    """Keyword arguments of the optimizers; which of them one has is in its signature.

    Attributes:
        rank: Rank of every group that does not say otherwise; None leaves those full-rank (AdamW).
        betas: Adam's decay rates.
        eps: Added to the root of the second moment.
        weight_decay: Decoupled weight decay.
        update_interval: Steps between two refreshes of the subspace, T.
        scale: Factor on the whole step.
        side: ``"auto"`` projects the shorter side of each matrix (rows of a square one), ``"left"`` the rows,
            ``"right"`` the columns.
        splits: Treat a parameter as that many matrices stacked along its first dimension (fused QKV: 3).
        state_dtype: Of basis and moments, without a rank too; None for float32 (float64 for float64 parameters).
        stochastic_rounding: Round updates of bfloat16 and float16 parameters at random, so that tiny ones are not lost.
        on_nonfinite: ``"raise"`` at a NaN or Inf in a gradient, or ``"skip"`` the whole step.
        seed: Of all randomness.
        rule: Name of a rule, or an object with ``first`` and ``refresh``.
        moments: ``"keep"``, ``"reset"`` or ``"transport"``.
        recovery: ``"none"``, ``"scaled"``, ``"sign"``, ``"feedback"`` or ``"residual"``.
        recovery_scale: Factor on the recovered part of the bulk.
        zeta: The recovered part's norm may grow by this factor per step; None switches the limiter off.
        limiter: Norms that the limiter compares: ``"after_bias_correction"`` (the papers), or
            ``"before_bias_correction"`` of Adam's moments (the released code of Fira, APOLLO and SubTrack++).
        transport: ``"published"`` (absolute value) or ``"clamped"`` (variance clamped at zero, which bounds the step).
        walk_step: Root-mean-square principal angle of a walk, radians.
        swaps: How many cosines a walk over cosines exchanges.
        jump_every: Which refreshes of the hybrid rule are jumps.
        step_size: Of the tracking rule: ``"exact"``, or a number in the paper's units.
        random_after: Random bases after this many steps (GoLore); None for never.
        rho: Weight of the moment in LDAdam's interpolation.
        scaling: APOLLO's factors: one per ``"channel"`` (column) or one per ``"tensor"``.
        density: Share of a matrix' rows that FRUGAL keeps a state for; None for the rank of them.
        basis_lr_scale: Learning rate of the basis over that of the weights (Online Subspace Descent).
        orthogonality: Weight of the basis' deviation from orthonormality (Online Subspace Descent).
        prox: Step size eta of RSO's proximal term; None leaves the term out.
        block: Name of the block that a group belongs to (BAdam); None finds it from the parameters' names.
        freeze_inactive: Switch off ``requires_grad`` outside of the active block (BAdam).
    """

    rank: int | None
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    update_interval: int
    scale: float
    side: Literal["auto", "left", "right", "sharded"]
    splits: int
    state_dtype: StateDtype | None
    stochastic_rounding: bool
    on_nonfinite: Literal["raise", "skip"]
    seed: int
    rule: Any
    moments: Literal["keep", "reset", "transport"]
    recovery: Literal["none", "scaled", "sign", "feedback", "residual"]
    recovery_scale: float
    zeta: float | None
    limiter: Literal["after_bias_correction", "before_bias_correction"]
    transport: Literal["published", "clamped"]
    walk_step: float
    swaps: int
    jump_every: int
    step_size: float | Literal["exact"]
    random_after: int | None
    rho: float
    scaling: Literal["channel", "tensor"]
    density: float | None
    basis_lr_scale: float
    orthogonality: float
    prox: float | None
    block: str | None
    freeze_inactive: bool


@dataclass(frozen=True)
class Option:
    """What is known of one option.

    Attributes:
        default: Its default, unless a method says otherwise.
        sound: Whether a value may be used.
        expected: What a value must be, for the message.
    """

    default: Any
    sound: Callable[[Any], bool]
    expected: str

    def check(self, name: str, value: Any) -> None:
        """Refuse a value that is not sound.

        Args:
            name: The option.
            value: What was given.

        Raises:
            ValueError: One line: what, expected, got.
        """
        try:
            if self.sound(value):
                return
        except (TypeError, AttributeError, RuntimeError, ValueError):  # None, strings, tensors and arrays of several
            pass
        got = " ".join(repr(value).split())  # a tensor takes several lines
        raise ValueError(f"{name} must be {self.expected}, got {got if len(got) < _SHOWN else got[:_SHOWN] + ' ...'}")


def or_none(sound: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """The same test, passed by None too."""
    return lambda value: value is None or sound(value)


def plain(value: Any, name: str = "") -> Any:
    """A value as a group holds it.

    Args:
        value: An option's.
        name: Of the option; a learning rate that is a tensor stays one, for those who change it in place.

    Returns:
        numpy's numbers and tensors of one entry, alone or in a tuple or list, as Python's numbers: a state that is
        saved with numpy's own does not load with ``weights_only=True``. Everything else as it is.
    """
    if isinstance(value, np.generic | np.ndarray) and value.size == 1:
        return value.item()
    if isinstance(value, torch.Tensor) and value.numel() == 1 and not (value.is_meta or name == "lr"):
        return value.item()
    return type(value)(map(plain, value)) if type(value) in {tuple, list} else value


def _number(sound: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """The same test, not passed by True and False, which Python takes for numbers."""
    return lambda value: not isinstance(value, bool) and sound(value)


def _at_least_zero(default: float) -> Option:
    return Option(default, _number(lambda value: 0 <= value <= _LARGEST), "a finite number of at least 0")


def _positive_int(default: int) -> Option:
    return Option(default, is_whole, "a whole number of at least 1")


def _choice(default: str | None, *values: str | None) -> Option:
    return Option(default, lambda value: is_choice(value, values), one_of(values))


def _switch() -> Option:
    return Option(False, lambda value: isinstance(value, bool), "True or False")


OPTIONS: dict[str, Option] = {
    "lr": _at_least_zero(1e-3),
    "rank": Option(None, or_none(is_whole), "a whole number of at least 1 or None"),
    "betas": Option((0.9, 0.999), is_decay_rates, "two numbers in [0, 1)"),
    "eps": _at_least_zero(1e-8),
    "weight_decay": _at_least_zero(0.0),
    "update_interval": _positive_int(200),
    "scale": _at_least_zero(1.0),
    "rule": Option("walk", lambda value: isinstance(value, str), "the name of a rule, or a rule"),
    "moments": _choice("transport", "keep", "reset", "transport"),
    "recovery": _choice("scaled", "none", "scaled", "sign", "feedback", "residual"),
    "recovery_scale": _at_least_zero(1.0),
    "zeta": Option(
        1.01, or_none(_number(lambda value: 1 <= value <= _LARGEST)), "a finite number of at least 1, or None"
    ),
    "limiter": _choice("after_bias_correction", "after_bias_correction", "before_bias_correction"),
    "transport": _choice("published", "published", "clamped"),
    "walk_step": _at_least_zero(0.1),
    "swaps": _positive_int(1),
    "jump_every": _positive_int(5),
    "step_size": Option(
        "exact", _number(lambda value: value == "exact" or 0 <= value <= _LARGEST), "'exact' or at least 0"
    ),
    "random_after": Option(None, or_none(lambda value: is_whole(value, 0)), "a step or None"),
    "rho": Option(0.908, _number(lambda value: 0 <= value <= 1), "in [0, 1]"),
    "scaling": _choice("channel", "channel", "tensor"),
    "density": Option(None, or_none(_number(lambda value: 0 < value <= 1)), "in (0, 1] or None"),
    "basis_lr_scale": _at_least_zero(5.0),
    "orthogonality": _at_least_zero(0.1),
    "prox": Option(
        None, or_none(_number(lambda value: 1 / _LARGEST <= value <= _LARGEST)), "a positive number or None"
    ),
    "block": Option(None, or_none(lambda value: isinstance(value, str)), "a name or None"),
    "freeze_inactive": _switch(),
    "side": _choice("auto", "auto", "left", "right", "sharded"),
    "splits": _positive_int(1),
    "state_dtype": _choice(None, None, "float32", "float64", "bfloat16"),
    "stochastic_rounding": _switch(),
    "on_nonfinite": _choice("raise", "raise", "skip"),
    "seed": Option(0, _number(lambda value: isinstance(value, int)), "an integer"),
}


OF_OTHERS_TOO = {"rho": "SAM keeps its radius"}  # keys that are an option here and of a wrapper that shares groups
_SWITCHES = {"amsgrad", "capturable", "differentiable", "foreach", "fused", "maximize"}  # of torch's optimizers
_CALLED_HERE = {
    "decay": "weight_decay", "epsilon": "eps", "learning_rate": "lr", "proj_type": "side",
    "update_proj_gap": "update_interval",
}  # fmt: skip
_PLAIN = (int, float, str, tuple, type(None))
_SIMILAR = 0.9


def check_options(settings: Mapping[str, Any]) -> None:
    """Refuse values that are not sound.

    Args:
        settings: Options and their values; keys that are not options are left alone.
    """
    for name, value in settings.items():
        if name in OPTIONS:
            OPTIONS[name].check(name, value)


def check_known(given: Iterable[str], known: Iterable[str], owner: str) -> None:
    """Refuse options that the owner does not have.

    Args:
        given: Names that were given.
        known: Names that there are.
        owner: Whose options they are, for the message.

    Raises:
        ValueError: One line that names the nearest, if there is a similar one, and lists what there is.
    """
    allowed = list(known)
    unknown = [name for name in given if name not in allowed]
    if unknown and not allowed:
        raise ValueError(f"{owner} has no option {unknown[0]!r}, and no other one; leave it out")
    if unknown:
        near = nearest(unknown[0], allowed, at_least=0.6)
        hint = f"nearest: {near}; " if near else ""
        raise ValueError(f"{owner} has no option {unknown[0]!r}; {hint}it has {', '.join(allowed)}")


def check_group_keys(given: Mapping[str, Any], known: Iterable[str], defaults: Mapping[str, Any], owner: str) -> None:
    """Refuse keys of a group that would be an option but for their spelling, owner or method; all others pass.

    Schedulers, wrappers and training scripts keep settings of theirs in groups; an optimizer leaves them alone.

    Args:
        given: The group's keys and values.
        known: Options of the owner.
        defaults: Values that all groups have; an option of another method with this value does no harm.
        owner: Whose group it is, for the message.

    Raises:
        ValueError: One line: which key, and what to do.
    """
    known = list(known)
    for name, value in given.items():
        if name in OF_OTHERS_TOO:
            if name in known and not (isinstance(value, _PLAIN) and value == defaults[name]):
                raise ValueError(
                    f"a group has {name}, where {OF_OTHERS_TOO[name]}: for all groups of {owner} give it as a keyword, "
                    f"{owner}(groups, {name}=...), and keep it out of the groups"
                )
        elif name in OPTIONS:
            is_default = isinstance(value, _PLAIN) and name in defaults and value == defaults[name]
            if name not in known and not is_default:
                check_known([name], known, owner)
        elif name in _SWITCHES or _is_misspelt(name, known):
            check_known([name], known, owner)
        elif name in _CALLED_HERE:
            raise ValueError(f"a group has {name}: with {owner} that is {_CALLED_HERE[name]}")


def _is_misspelt(name: str, known: Iterable[str]) -> bool:
    """Whether a key is an option but for a letter or two; one with words more is another's (``no_weight_decay``)."""
    key = str(name).lower()
    return any(
        difflib.SequenceMatcher(None, key, option).ratio() >= _SIMILAR
        and not set(option.split("_")) < set(key.split("_"))
        for option in known
    )


def defaults_of(names: Iterable[str], changed: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults of the named options.

    Args:
        names: Options.
        changed: Those whose default is a method's own.

    Returns:
        Name to default, in the order of `OPTIONS`.
    """
    wanted = set(names)
    return {name: changed.get(name, option.default) for name, option in OPTIONS.items() if name in wanted}


def signature_of(names: Iterable[str], changed: Mapping[str, Any]) -> inspect.Signature:
    """The signature of an optimizer with these options: what `help` and editors show."""
    keyword, either = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter("params", either)]
    for name, default in defaults_of(names, changed).items():
        parameters.append(inspect.Parameter(name, either if name == "lr" else keyword, default=default))
    return inspect.Signature(parameters)
