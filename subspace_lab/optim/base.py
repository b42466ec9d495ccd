"""What every optimizer here shares: groups of plain values, full-rank AdamW, checks, state that loads exactly."""

from __future__ import annotations

import inspect
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Unpack, overload

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, ParamsT

from subspace_lab._frozen import close_others
from subspace_lab.optim.adam import full_rank_adamw
from subspace_lab.optim.describe import describe
from subspace_lab.optim.group_edits import Checked, check_edited, checked, edited
from subspace_lab.optim.group_names import (
    agree_on_names,
    canonical_by_name,
    check_names,
    check_same_name,
    draw_key,
    draws_by,
    name_of as name_of,
)
from subspace_lab.optim.in_subspace import gradient_of
from subspace_lab.optim.magnitude import LIMIT, limit, shrinking
from subspace_lab.optim.matrices import may_overlap, state_dtype
from subspace_lab.optim.options import (
    OPTIONS,
    Options,
    check_group_keys,
    check_known,
    check_options,
    defaults_of,
    plain,
    signature_of,
)
from subspace_lab.optim.random import generator
from subspace_lab.optim.rounding import HALF
from subspace_lab.optim.saved_state import Kept, as_kept, check_saved
from subspace_lab.optim.shards import (
    differing,
    everywhere,
    largest_anywhere,
    lies_elsewhere,
    offset_of,
    one_decision,
    refuse_unknown,
    same_placement,
    sum_over,
)
from subspace_lab.optim.whole import Whole, local

Group = dict[str, Any]
State = dict[str, Any]


class NonFiniteGradientError(ArithmeticError):
    """A gradient has NaN or Inf entries; nothing was changed. The message names the layer and the way out."""


@dataclass(frozen=True)
class Live:
    """A parameter that has a gradient.

    Attributes:
        p: The parameter.
        group: The one of ``param_groups`` that it is in.
        place: Its place in the group.
        index: Its place among all parameters, in the order in which they were added.
        factor: Power of two that the gradient is multiplied by in this step; below 1 where its squares would overflow.
    """

    p: Tensor
    group: Group
    place: int
    index: int
    factor: float = 1.0

    @property
    def key(self) -> str | int:
        """What its random draws are keyed by."""
        return draw_key(self.group, self.place, self.index)

    @property
    def grad(self) -> Tensor:
        """The gradient, dense, times the factor; of a distributed parameter the part that is here."""
        grad = local(gradient_of(self.p))
        dense = (grad if grad.layout == torch.strided else grad.to_dense()).resolve_conj().resolve_neg()
        return dense if self.factor == 1 else dense * self.factor


class GroupOptimizer(Optimizer):
    """Groups with a ``rank`` are for the subclass, groups without are full-rank AdamW.

    A subclass names its `options`, those whose default it `changed`, and implements `_update`. Groups hold numbers,
    strings, booleans and None only, so that a saved state loads with ``weights_only=True``.

    Args:
        params: Parameters, groups, or named parameters as torch takes them; names make better messages.
        lr: Learning rate.
        options: Settings of every group that does not say otherwise; see `Options`.

    Raises:
        TypeError: If `params` is a model.
    """

    options: ClassVar[tuple[str, ...]] = (
        "lr", "rank", "betas", "eps", "weight_decay", "state_dtype", "stochastic_rounding", "on_nonfinite", "seed",
    )  # fmt: skip
    changed: ClassVar[Mapping[str, Any]] = {}
    revision: ClassVar[int] = 1  # counted up when the same settings train otherwise; results are kept apart by it
    shaping: ClassVar[tuple[str, ...]] = ()  # options that say what a state is: one made with others does not load
    __signature__: ClassVar[inspect.Signature | None]

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        own = "__init__" in cls.__dict__
        cls.__signature__ = None if own else signature_of(cls.options, cls.changed)

    def __init__(self, params: ParamsT, lr: float | None = None, **options: Unpack[Options]) -> None:
        kind = type(self).__name__
        if isinstance(params, nn.Module):
            raise TypeError(
                f"{kind} takes groups, got a {type(params).__name__}: make them by param_groups(model, rank)"
            )
        check_known(options, self.options, kind)
        self._checked: dict[int, Checked] = {}
        self._agreed = 0
        given = {name: plain(value, name) for name, value in {**options, **({} if lr is None else {"lr": lr})}.items()}
        super().__init__(params, {**self._defaults(), **given, "method": kind})

    def _defaults(self) -> Group:
        return defaults_of(self.options, self.changed)

    def __repr__(self) -> str:
        return describe(type(self).__name__, self.param_groups, self._effective)

    def _effective(self, group: Group) -> tuple[str, ...]:
        """Options that have an effect on a group."""
        return self._known(group)

    def add_param_group(self, param_group: Group) -> None:
        """Add a group, as torch does, and check it.

        Args:
            param_group: ``params`` and the options that differ from the defaults. It is copied: torch would write its
                defaults into it, and a second optimizer made from the same groups would find those of the first.
                Keys that are not options of this package are kept for whoever reads them (``lr_scale``, ``swa_lr``).
                Names are made for parameters without one where others have one.

        Raises:
            ValueError: If an option is of another method, misspelt or not sound, if a key may be another owner's, or a
                parameter cannot be in such a group; the optimizer is left as it was.
            TypeError: If the parameters are not tensors; the message is torch's.
        """
        if not isinstance(param_group, dict) or "params" not in param_group:
            raise ValueError(f"a group is a dict with 'params', got {_outline(param_group)}")
        kind, earlier = type(self).__name__, list(self.param_groups)
        asked = {
            name: plain(value, name) for name, value in param_group.items() if name not in {"params", "param_names"}
        }
        check_group_keys(asked, self._known(param_group), self.defaults, kind)
        given = {**param_group, **asked, "method": kind}
        renamed = agree_on_names(given, earlier)
        try:
            super().add_param_group(given)
            group = self.param_groups[-1]
            group["draws_by"] = draws_by(group, earlier)
            self._check_group(group)
            self._checked[id(group)] = checked(group, self._known(group))
        except (ValueError, TypeError):
            self.param_groups[:] = earlier
            for group in renamed:
                del group["param_names"]
            raise
        if close_others(group["params"], getattr(self, "_frozen", None)):
            warnings.warn(
                f"a BAdam that froze parameters of this {kind} is closed; call its close() when you are done with it",
                stacklevel=3,
            )

    def _known(self, param_group: Group) -> tuple[str, ...]:  # noqa: ARG002
        """Options that a group may have."""
        return self.options

    def _check_group(self, group: Group) -> None:
        """Refuse a group whose options or parameters are not sound; raises ValueErrors of one line."""
        check_options({name: group[name] for name in self._known(group) if name in group})
        for place, p in enumerate(group["params"]):
            refuse_unknown(p, name_of(group, place))
            is_small = p.dtype == torch.complex32 or (p.is_floating_point() and p.dtype.itemsize < 2)
            if p.layout != torch.strided or is_small:
                raise ValueError(
                    f"{name_of(group, place)}: a parameter is a dense tensor of 16 bits at least (complex: 64), got "
                    f"{p.layout} of {p.dtype}; gradients may be sparse"
                )
            if may_overlap(local(p)):
                raise ValueError(
                    f"{name_of(group, place)}: entries of the parameter share memory (shape {tuple(p.shape)}, strides "
                    f"{p.stride()}), so that it cannot be updated in place; train the tensor that it is a view of"
                )
            if p.is_conj() or p.is_neg():
                raise ValueError(
                    f"{name_of(group, place)}: the parameter is a conjugated or negated view, which cannot be updated "
                    "in place; train the tensor that it is a view of"
                )
            if p.is_complex() and group["state_dtype"] == "bfloat16":
                raise ValueError(f"{name_of(group, place)}: there is no complex bfloat16; leave state_dtype out")

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One optimization step.

        Args:
            closure: Evaluates the model and returns the loss.

        Returns:
            The loss that the closure returned, or None.

        Raises:
            NonFiniteGradientError: If a gradient has NaN or Inf entries and its group says so; nothing was changed.
            ValueError: If a group was edited into what it may not be, or a setting that shapes the state, such as the
                rank, was changed since the state was made; nothing was changed.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._check_edits()
        self._agree()
        live = self._live()
        self._check_shapes(live)
        passed = None
        if self._is_initialization(live):
            self._initialize(live)
        else:
            passed = self._passed(live)
        if passed is not None:
            self._update_all(passed)
        return loss

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _agree(self) -> None:
        """Refuse settings that differ between processes, once for every number of groups: each would step otherwise."""
        if self._agreed == len(self.param_groups):
            return
        settings = {name: [plain(group.get(name), name) for group in self.param_groups] for name in OPTIONS}
        if names := differing(settings, self._parameters()):
            raise ValueError(
                f"{names[0]} is {settings[names[0]]} in the groups of this process and not on all others: give all "
                "processes the same settings, the seed included"
            )
        self._agreed = len(self.param_groups)

    def _check_edits(self) -> None:
        """Refuse groups that were edited into what they may not be."""
        for number, group in enumerate(self.param_groups):
            before, where = self._checked.get(id(group)), f"param_groups[{number}]"
            names = ["params"] if before is None else edited(group, before)
            if not names:
                continue
            known: Iterable[str] = before.values if before else ()
            if before is not None and "params" in names:
                self._check_replaced(group, where)
            if check_edited(group, names, where):
                check_names(group)
                self._check_group(group)
                known = self._known(group)
            self._checked[id(group)] = checked(group, known)

    def _check_replaced(self, group: Group, where: str) -> None:
        """Refuse parameters that took the places of others with states."""
        held = {p for other in self.param_groups for p in other["params"]}
        is_lost = any(state and p not in held for p, state in self.state.items())
        if is_lost and not all(self.state.get(p) for p in group["params"]):
            raise ValueError(
                f"{where}: its parameters were replaced, as Accelerate's prepare does under FSDP2, after states had "
                "been made or loaded: prepare the optimizer before its first step, and load states after that"
            )

    def _is_initialization(self, live: list[Live]) -> bool:
        """Whether this is not a step but torch's way to make states: all gradients and learning rates 0, before any."""
        return (
            not any(self.state.values())
            and all(float(group["lr"]) == 0 for group in self.param_groups)
            and everywhere(not any(bool(x.grad.any()) for x in live), self._parameters())
        )

    def _initialize(self, live: list[Live]) -> None:
        """Make all states, so that there is something to load into, and count no step."""
        self._settle(live)
        settings = [group["eps"] for group in self.param_groups]
        for group in self.param_groups:
            group["eps"] = 1.0  # with 0, the weights would move by 0/0
        try:
            self._update_all(live)
        finally:
            for group, eps in zip(self.param_groups, settings, strict=True):
                group["eps"] = eps
        for state in self.state.values():
            if state:
                state["step"] = state["step"] * 0

    def _live(self) -> list[Live]:
        live, index = [], 0
        for group in self.param_groups:
            for place, p in enumerate(group["params"]):
                if p.grad is not None:
                    live.append(Live(p, group, place, index))
                index += 1
        return live

    def _check_shapes(self, live: list[Live]) -> None:
        """Refuse a step with states that were made by other settings; one parameter speaks for its group."""
        first = {id(x.group): x for x in reversed(live) if self.state.get(x.p)}
        for x in first.values():
            state = self.state[x.p]
            for key, (shape, _) in self._kept(x.p, x.group).items():
                if key not in state or getattr(state[key], "shape", ()) != shape:
                    got = f"of shape {tuple(state[key].shape)}" if key in state else "missing"
                    raise ValueError(
                        f"{name_of(x.group, x.place)}: {key} is {got}, its group's settings make it of shape {shape}: "
                        f"{', '.join(self.shaping)} stay as they are after the first step; build a new optimizer"
                    )

    def _update_all(self, live: list[Live]) -> None:
        for group in self.param_groups:
            if group["rank"] is None:
                of = {x.p: x for x in live if x.group is group}

                def rounding(p: Tensor, of: dict[Tensor, Live] = of) -> torch.Generator | None:
                    return self._rounding(of[p])

                full_rank_adamw(list(of), [x.grad for x in of.values()], group, self.state, rounding)
        self._update_ranked([x for x in live if x.group["rank"] is not None])

    def _update_ranked(self, live: list[Live]) -> None:
        for x in live:
            self._update(x)

    def _update(self, x: Live) -> None:
        raise NotImplementedError

    def _rounding(self, x: Live) -> torch.Generator | None:
        """Source of stochastic rounding of a full-rank parameter in the step that its state counts."""
        if not (x.group["stochastic_rounding"] and x.p.dtype in HALF):
            return None
        return generator(x.group["seed"], x.key, "rounding", int(self.state[x.p]["step"]), *offset_of(x.p))

    def _summary(self, x: Live) -> Tensor:
        """A number that is large or not finite where an entry of the gradient is, unless such entries cancel."""
        grad = local(gradient_of(x.p))
        total = grad.sum(dtype=torch.float32) if grad.dtype == torch.float16 else grad.sum()
        return total.abs() if grad.is_complex() else total

    def _passed(self, live: list[Live]) -> list[Live] | None:
        """The gradients that the step may take, or None if it is to be skipped; no parameter was changed yet."""
        summaries, parameters = [self._summary(x) for x in live], [x.p for x in live]
        of_ordinary_size: Tensor | bool = True
        if summaries:
            of_ordinary_size = (torch.stack([_like(s, summaries[0]) for s in summaries]).abs() <= LIMIT).all()
        of_ordinary_size, alone = one_decision(of_ordinary_size, self._parameters(), lambda p: p.grad is not None)
        if alone is not None:
            group, place = next((g, i) for g in self.param_groups for i, p in enumerate(g["params"]) if p is alone)
            raise ValueError(
                f"{name_of(group, place)}: it has a gradient on some of its processes and none on others, and nothing "
                "was changed; give it a gradient of zeros where the model did not use it, or set it to None on all"
            )
        self._settle(live)
        if of_ordinary_size:
            return live
        for x in live:
            bad = largest_anywhere(int(sum_over(x.p, int((~x.grad.isfinite()).sum()))), parameters)
            if not bad:
                continue
            if x.group["on_nonfinite"] == "skip":
                return None
            raise NonFiniteGradientError(
                f"{name_of(x.group, x.place)}: {bad} of {x.p.numel()} gradient entries are NaN or Inf and nothing "
                "was changed; lower the learning rate, clip gradients, or pass on_nonfinite='skip'"
            )
        return [self._shrunk(x) for x in live]

    def _settle(self, live: list[Live]) -> None:
        """Have gradients lie as their parameters do, once all processes are known to have them."""
        for x in live:
            if lies_elsewhere(x.p):
                x.p.grad = same_placement(x.p)

    def _shrunk(self, x: Live) -> Live:
        """The gradient with what it is to be multiplied by, so that nothing overflows that is computed of it."""
        return replace(x, factor=shrinking(x.grad, limit(x.p.dtype, state_dtype(x.group, x.p.dtype)), x.p))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state: tensors in the dtypes that this optimizer keeps, where torch casts to the parameters' own.

        Args:
            state_dict: What `state_dict` returned, of the same method, ranks and parts over the same parameters.

        Raises:
            ValueError: If it is of others, or has settings, steps or moments that are not sound; names expected and
                got. Nothing was changed.
        """
        if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= set(state_dict):
            raise ValueError(f"a state dict has 'state' and 'param_groups', got {_outline(state_dict)}")
        before, after = self._optimizer_load_state_dict_pre_hooks, self._optimizer_load_state_dict_post_hooks
        given = dict(state_dict)
        for hook in before.values():
            changed = hook(self, given)
            given = given if changed is None else changed
        self._check_state(given)
        defaults = [dict(group) for group in self.param_groups]
        states: dict[Any, State] = given["state"]
        indices = [i for group in given["param_groups"] for i in group["params"]]
        ours = set(indices)
        others = {key: value for key, value in states.items() if key not in ours}
        try:  # the hooks see the states as they were saved, and as they are in the end
            self._optimizer_load_state_dict_pre_hooks = OrderedDict()
            self._optimizer_load_state_dict_post_hooks = OrderedDict()
            super().load_state_dict({**given, "state": others})
        finally:
            self._optimizer_load_state_dict_pre_hooks, self._optimizer_load_state_dict_post_hooks = before, after
        place = iter(indices)
        for group, settings in zip(self.param_groups, defaults, strict=True):
            for name in self._known(group):
                if name in settings:
                    group.setdefault(name, settings[name])
            for p in group["params"]:
                if index_state := states.get(next(place)):
                    self.state[p] = as_kept(index_state, self._kept(p, group), p, self._state_lies(p, group))
        self._has_loaded()
        for post in after.values():
            post(self)

    def _has_loaded(self) -> None:
        """What follows from a state that was loaded."""
        self._checked = {id(group): checked(group, self._known(group)) for group in self.param_groups}

    def _check_state(self, state_dict: Mapping[str, Any]) -> None:
        """Refuse an unsound state before anything is changed, on all processes if it is unsound on one."""
        error: ValueError | None = None
        try:
            self._check_saved(state_dict)
        except ValueError as found:
            error = found
        if everywhere(error is None, self._parameters()):
            return
        raise error or ValueError("the state of another process is not sound; the message of that one says why")

    def _check_saved(self, state_dict: Mapping[str, Any]) -> None:
        """Refuse the state of another method, model or settings that shape it."""
        names = [canonical_by_name(groups) for groups in (state_dict["param_groups"], self.param_groups)]
        for saved, group in zip(state_dict["param_groups"], self.param_groups, strict=False):
            if saved.get("method") != group["method"]:
                raise ValueError(f"the state is that of {saved.get('method')}, expected {group['method']}")
            for name in self.shaping:
                if saved.get(name) != group.get(name):
                    on_shards = "; on sharded parameters, which 'sharded' takes" if saved.get(name) == "sharded" else ""
                    raise ValueError(
                        f"the state has {name}={saved.get(name)!r}, expected {group.get(name)!r}: build the optimizer "
                        f"as the saved one was{on_shards}"
                    )
            merged = {**group, **saved}
            for name in self._known(merged):
                if name in merged:
                    OPTIONS[name].check(f"the state's {name}", merged[name])
            for place, (index, p) in enumerate(zip(saved["params"], group["params"], strict=False)):
                if state := state_dict["state"].get(index):
                    check_saved(state, self._kept(p, merged), name_of(group, place), p)
                check_same_name(saved, group, place, names)

    def _state_lies(self, p: Tensor, group: Group) -> Whole | None:  # noqa: ARG002
        """How the matrices lie whose state is kept; None where the state lies as the parameter does."""
        return None

    def _kept(self, p: Tensor, group: Group) -> Kept:
        """Shapes and dtypes of the tensors of a parameter's state."""
        moments = dict.fromkeys(("exp_avg", "exp_avg_sq"), (tuple(p.shape), state_dtype(group, p.dtype)))
        return {"step": ((), torch.float32), **moments}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({"_checked": {}, "_agreed": 0, **state})


def _outline(value: object) -> str:
    return f"the keys {sorted(map(str, value))}" if isinstance(value, Mapping) else type(value).__name__


def _like(summary: Tensor, first: Tensor) -> Tensor:
    same = summary.dtype == first.dtype and summary.device == first.device
    return summary if same else summary.to(first)
