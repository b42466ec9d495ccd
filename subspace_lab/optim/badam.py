"""BAdam (arXiv 2404.02827): Adam on one block of the model at a time."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from subspace_lab._frozen import Frozen, is_trained
from subspace_lab.optim.adam import adam_step
from subspace_lab.optim.base import Group, GroupOptimizer, Live, State, name_of
from subspace_lab.optim.low_rank import LowRankOptimizer
from subspace_lab.optim.matrices import state_dtype
from subspace_lab.optim.options import Options, signature_of
from subspace_lab.optim.random import generator
from subspace_lab.optim.rounding import HALF
from subspace_lab.optim.saved_state import Kept, is_count
from subspace_lab.optim.shards import kept_for, offset_of
from subspace_lab.optim.whole import is_distributed, local, local_state

_LAYER = re.compile(r"^(.*?\.?\d+)\.")


class BAdam(GroupOptimizer):
    """Block coordinate descent: ``update_interval`` Adam steps on one block, then the next, in a random order.

    A block is a layer of the model. Only the active one holds moments; they start from zero, bias correction included,
    whenever a block becomes active, and are dropped when it ceases to be (algorithm 1 of the paper). Every cycle goes
    through all blocks in a new random order. Full-rank steps at the state of one layer; what is lost is that most of
    the model stands still at any time.

    The block of a parameter is the group's ``block``; without one, the layer in its name (``model.layers.3``) or,
    outside of layers, its module (``lm_head``); a parameter without a name is a block of its own. All parameters
    are in blocks: ``rank``, ``side`` and ``splits`` are taken, so that groups made for the other methods serve
    here, and have no effect.

    Args:
        params: Parameters or groups.
        lr: Learning rate.
        options: ``update_interval`` (K, 100), ``block``, ``freeze_inactive`` and the shared ones; see `Options`.

    State: two moments of the active block's parameters: twice its numbers. With ``freeze_inactive`` there are gradients
    of the active block only.

    ``freeze_inactive`` switches ``requires_grad`` of the parameters. It is switched on again by `close`, when the
    optimizer is collected, and when another optimizer of this package is made over the same parameters.

    Limitations: wrappers that look at ``requires_grad`` once (DDP, a gradient capture) do not follow
    ``freeze_inactive``. ``update_interval`` and ``seed`` are the same in all groups. Tools that load into the state of
    a new optimizer, as ``torch.distributed.checkpoint`` does, find that of its first block only: save ``state_dict()``
    as a whole. Of distributed parameters `state_dict` has moments of all blocks, so that these tools work.
    One optimizer per parameter has one block per optimizer: nothing takes turns.
    """

    options = (*LowRankOptimizer.options, "block", "freeze_inactive")
    changed: ClassVar[Mapping[str, Any]] = {"update_interval": 100}

    def __init__(self, params: ParamsT, lr: float | None = None, **options: Unpack[Options]) -> None:
        self._frozen = Frozen(self)
        super().__init__(params, lr, **options)

    def add_param_group(self, param_group: Group) -> None:
        """Add a group, as torch does, and check it.

        Args:
            param_group: ``params`` and the options that differ from the defaults.
        """
        if isinstance(param_group, dict) and "params" in param_group:
            taken = self.param_groups[0]["steps_taken"] if self.param_groups else 0
            param_group = {**param_group, "steps_taken": taken}
        super().add_param_group(param_group)
        self._freeze()

    def close(self) -> None:
        """Switch on what ``freeze_inactive`` switched off, for good; steps go on as they were, without freezing."""
        self._frozen.close()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_frozen" not in self.__dict__:  # a copy, not a state that is loaded
            self._frozen = Frozen(self)
            self._freeze()

    def _check_group(self, group: Group) -> None:
        super()._check_group(group)
        for name in ("update_interval", "seed"):
            if others := [other[name] for other in self.param_groups if other[name] != group[name]]:
                raise ValueError(f"{name} must be the same in all groups, got {others[0]} and {group[name]}")
        for place, p in enumerate(group["params"]):
            if not p.is_floating_point():
                raise ValueError(f"{name_of(group, place)}: BAdam takes real parameters, got {p.dtype}")
            if group["freeze_inactive"] and not is_trained(p):
                raise ValueError(
                    f"{name_of(group, place)} requires no gradient and freeze_inactive would switch it on; leave it out"
                )

    def blocks(self) -> dict[str, list[Tensor]]:
        """The blocks, in the order in which they were added.

        Returns:
            Name to parameters.
        """
        found: dict[str, list[Tensor]] = {}
        index = 0
        for group in self.param_groups:
            for place, p in enumerate(group["params"]):
                found.setdefault(block_name(group, place, index), []).append(p)
                index += 1
        return found

    def active_block(self) -> str:
        """Name of the block that the next step is for."""
        return self._block_of_turn(self.param_groups[0])

    def _block_of_turn(self, first: Mapping[str, Any]) -> str:
        """The block that is active with the settings and the steps taken of a first group."""
        names = list(self.blocks())
        cycle, turn = divmod(first["steps_taken"] // first["update_interval"], len(names))
        random.Random(f"{first['seed']}/blocks/{cycle}").shuffle(names)
        return names[int(turn)]

    def _update_all(self, live: list[Live]) -> None:
        taken = self.param_groups[0]["steps_taken"]
        if taken % self.param_groups[0]["update_interval"] == 0:
            self.state.clear()
        active = {id(p) for p in self.blocks()[self.active_block()]}
        for x in live:
            if id(x.p) in active:
                self._update(x)
        for group in self.param_groups:
            group["steps_taken"] = taken + 1
        self._freeze()

    def _update(self, x: Live) -> None:
        p, group, state = x.p, x.group, self.state[x.p]
        if not state:
            state.update(self._zeros(p, group))
        state["step"] += 1
        size = float(group["lr"]) * group["scale"]
        adam_step(local(p), x.grad, local_state(p, state), group, size=size, rounding=self._rounding(x))

    def _zeros(self, p: Tensor, group: Group) -> State:
        kept = self._kept(p, group).items()
        return {"step": 0, **{key: kept_for(p, key, shape, dtype, None) for key, (shape, dtype) in kept}}

    def state_dict(self) -> dict[str, Any]:
        """The state, as torch gives it; of distributed parameters with zeros for blocks that are not active.

        Distributed checkpoints load into what a new optimizer has, whose active block may be another: these zeros, of
        twice the parameters' numbers, exist while one is saved or loaded, and are dropped by `load_state_dict`.

        Returns:
            State and groups.
        """
        held = {p for p, state in self.state.items() if state}
        for group in self.param_groups:
            for p in group["params"]:
                if p not in held and is_distributed(p) and is_trained(p):
                    self.state[p] = self._zeros(p, group)
        try:
            return super().state_dict()
        finally:
            for p in self.state.keys() - held:
                del self.state[p]

    def _rounding(self, x: Live) -> torch.Generator | None:
        if not (x.group["stochastic_rounding"] and x.p.dtype in HALF):
            return None
        return generator(x.group["seed"], x.key, "rounding", self.param_groups[0]["steps_taken"], *offset_of(x.p))

    def _freeze(self) -> None:
        """Gradients for the active block only, in groups that ask for it."""
        active = {id(p) for p in self.blocks()[self.active_block()]}
        switched = [p for group in self.param_groups if group["freeze_inactive"] for p in group["params"]]
        self._frozen.let_through(switched, active)

    def _is_initialization(self, live: list[Live]) -> bool:
        return self.param_groups[0]["steps_taken"] == 0 and super()._is_initialization(live)

    def _initialize(self, live: list[Live]) -> None:
        super()._initialize(live)
        for group in self.param_groups:
            group["steps_taken"] = 0
        self._freeze()

    def _has_loaded(self) -> None:
        super()._has_loaded()
        active = {id(p) for p in self.blocks()[self.active_block()]}
        for p in [p for p in self.state if id(p) not in active and is_distributed(p)]:
            del self.state[p]
        self._freeze()

    def _check_saved(self, state_dict: Mapping[str, Any]) -> None:
        super()._check_saved(state_dict)
        taken = {saved.get("steps_taken") for saved in state_dict["param_groups"]}
        if len(taken) > 1 or not all(is_count(steps) for steps in taken):
            said = " and ".join(map(str, taken))
            raise ValueError(f"the state has steps_taken={said}, expected one whole number of at least 0")
        self._check_frozen(state_dict)

    def _check_frozen(self, state_dict: Mapping[str, Any]) -> None:
        """Refuse a state from which torch's helpers left out a block that is frozen here and was active there."""
        first = {**self.param_groups[0], **state_dict["param_groups"][0]}
        if first["steps_taken"] % first["update_interval"] == 0:
            return  # every block begins without moments
        active = {id(p) for p in self.blocks()[self._block_of_turn(first)]}
        for saved, group in zip(state_dict["param_groups"], self.param_groups, strict=False):
            for place, (index, p) in enumerate(zip(saved["params"], group["params"], strict=False)):
                is_frozen = is_distributed(p) and is_trained(p) and not p.requires_grad
                if is_frozen and id(p) in active and index not in state_dict["state"]:
                    raise ValueError(
                        f"{name_of(group, place)}: its moments are missing, since torch's helpers leave out parameters "
                        "that require no gradient; load into a BAdam made with freeze_inactive=False, which then "
                        "freezes as the saved one did"
                    )

    def _kept(self, p: Tensor, group: Group) -> Kept:
        return dict.fromkeys(("exp_avg", "exp_avg_sq"), (tuple(p.shape), state_dtype(group, p.dtype)))


BAdam.__signature__ = signature_of(BAdam.options, BAdam.changed)


def block_name(group: Group, place: int, index: int) -> str:
    """The block of a parameter.

    Args:
        group: The one of ``param_groups`` that it is in.
        place: Its place there.
        index: Its place among all parameters.

    Returns:
        The group's block, the layer or the module in its name, or a block of its own.
    """
    if group["block"] is not None:
        return str(group["block"])
    if "param_names" not in group:
        return f"parameter {index}"
    name = str(group["param_names"][place])
    layer = _LAYER.match(name)
    return layer.group(1) if layer else name.rpartition(".")[0] or name
