"""The hooks of a defended training: its gradient is the chain's, and every so often the conflict is looked at."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from subspace_lab.studies.safety.chained import chain_gradient
from subspace_lab.studies.safety.context import Kind, RunContext, StepContext
from subspace_lab.studies.safety.feed import StepLosses
from subspace_lab.studies.safety.referee.conflict import conflict_row
from subspace_lab.studies.safety.referee.gradients import gradient_overlaps
from subspace_lab.studies.safety.stages import Chain
from subspace_lab.training.hooks import StepHooks
from subspace_lab.training.trainer import seed_step

_STATE = "state."
_BATCHES = 4  # of each kind, whose mean gradient has the spaces that are compared
AGAIN = "again"  # other safety rows: what two samples of the same kind share


class DefendedSteps:
    """What happens in the steps of a training, and what of it is in every checkpoint.

    Args:
        chain: Defenses of one stage; without any the training is the plain one.
        context: The run, prepared already.
        losses: Of its steps.
        probe_every: Steps between two looks at the conflict with the safety rows; None for none.
        earlier: ``base`` and ``aligned``: weights in the order of the trainable parameters.

    Attributes:
        passes: Forward-backward passes of the steps, without those of the looks.
        probes: A row of the table ``steps`` for each look.
        overlaps: Rows of the table ``subspaces``: spaces of safety, user and harm gradients before the first step, in
            the middle and after the last step of a training without defenses that has rows of all three kinds.
    """

    def __init__(
        self,
        chain: Chain,
        context: RunContext,
        losses: StepLosses,
        *,
        probe_every: int | None = None,
        earlier: Mapping[str, Callable[[], Sequence[Tensor]]] | None = None,
    ) -> None:
        self._chain, self._run, self._losses, self._every = chain, context, losses, probe_every
        self._earlier = earlier or {}
        self.passes = 0
        self.probes: list[dict[str, Any]] = []
        self.overlaps: list[dict[str, Any]] = []
        self._seen: tuple[Sequence[Tensor | None], ...] = ()
        self._before: list[Tensor] = []

    @property
    def hooks(self) -> StepHooks:
        """For `subspace_lab.train`; without defenses its own backward pass, which several processes may share."""
        after = None if self._every is None else self._look_after
        if not self._chain.defenses:
            return StepHooks(state=self, before=self._before_plain, after=after)
        before = None if self._every is None else self._look_before
        return StepHooks(state=self, backward=self._backward, before=before, after=after)

    def state_dict(self) -> dict[str, Any]:
        """See `Stateful.state_dict`."""
        state = {f"{_STATE}{name}": value for name, value in self._run.state.items()}
        return {"passes": self.passes, "probes": self.probes, "overlaps": self.overlaps, **state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Stateful.load_state_dict`."""
        self.passes, self.probes, self.overlaps = state["passes"], state["probes"], state["overlaps"]
        self._run.state.clear()
        self._run.state.update({
            name.removeprefix(_STATE): value for name, value in state.items() if name.startswith(_STATE)
        })

    def _before_plain(self, step: int, model: nn.Module) -> None:
        self.passes += 1
        if self._is_probed(step):
            user = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in self._run.parameters]
            self._seen = (user, self._context(step, model, {}).safety())
        if self._every is not None:
            self._look_before(step, model)

    def _backward(self, step: int, model: nn.Module, _plain: Callable[[], float]) -> float:
        seed_step(self._run.seed, 0, step, device=next(model.parameters()).device)
        seen: dict[str, float] = {}
        context = self._context(step, model, seen)
        made = chain_gradient(self._chain, context)
        self.passes += context.passes
        if self._is_probed(step):
            self._seen = (context.user(), context.safety())
        for p, gradient in zip(self._run.parameters, made, strict=True):
            p.grad = None if gradient is None else gradient.detach().clone()  # clipping scales it in place
        if not seen:
            raise ValueError(f"the defense {self._chain.text} asked for no gradient in step {step}")
        return seen.get("user", next(iter(seen.values())))

    def _context(self, step: int, model: nn.Module, seen: dict[str, float]) -> StepContext:
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        return StepContext(
            [p for _, p in named], self._losses.of_step(step, seen), weights=self._earlier, state=self._run.state,
            index=step, total=self._run.steps, names=[name for name, _ in named],
        )  # fmt: skip

    def _is_probed(self, step: int) -> bool:
        return self._every is not None and step % self._every == 0

    def _look_before(self, step: int, model: nn.Module) -> None:
        if step in {0, self._run.steps // 2}:
            self._look_at_spaces(step, model)
        if self._is_probed(step):
            self._before = [p.detach().clone() for p in self._run.parameters]
            made = [None if p.grad is None else p.grad.clone() for p in self._run.parameters]
            self._seen = (*self._seen, made)

    def _look_after(self, step: int, model: nn.Module) -> None:
        if step == self._run.steps - 1:
            self._look_at_spaces(self._run.steps, model)
        if self._is_probed(step):
            applied = [p.detach() - before for p, before in zip(self._run.parameters, self._before, strict=True)]
            user, safety, made = self._seen
            row = conflict_row(user, safety, made, applied)
            self.probes.append({"step": step, **{k: None if math.isnan(v) else v for k, v in row.items()}})
            self._seen, self._before = (), []

    def _look_at_spaces(self, step: int, model: nn.Module) -> None:
        """Add the overlaps of gradients at the weights that the model has now."""
        if self._chain.defenses or not self._losses.has("user", "safety", "harm"):
            return

        def mean(kind: Kind, first: int) -> Tensor:
            parts = [part for i in range(_BATCHES) for part in self._losses.of_step(first + i, {})(kind, "ce")]
            return torch.stack(parts).sum() / _BATCHES

        losses = {kind: functools.partial(mean, kind, step) for kind in ("safety", "user", "harm")}
        losses[AGAIN] = functools.partial(mean, "safety", step + _BATCHES)
        table = gradient_overlaps(model, losses)
        pairs = {f"safety-{other}" for other in ("user", "harm", AGAIN)} | {"user-harm"}
        kept = table[table["pair"].isin(pairs)]
        self.overlaps += [{"step": step, **{str(k): v for k, v in row.items()}} for row in kept.to_dict("records")]
