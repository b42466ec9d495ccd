"""What is written of each step: a line of metrics, and a snapshot where one is due."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from subspace_lab.capture.collect import Collected, collect
from subspace_lab.capture.gradients import global_norm, num_processes
from subspace_lab.capture.layers import Layer
from subspace_lab.capture.present import changes, present, shown
from subspace_lab.capture.reductions import reduction
from subspace_lab.capture.rounds import Turn
from subspace_lab.capture.together import Together, agree
from subspace_lab.capture.values import plain_values, snapshot_context
from subspace_lab.runs import RunError, RunWriter
from subspace_lab.runs.snapshot import snapshot_path


@dataclass
class _Snapshot:
    """A snapshot that optimizers add to until the last of them has stepped."""

    step: int
    waits_for: list[int]
    norms: list[float] = field(default_factory=list)
    collected: Collected = field(default_factory=Collected)
    line: dict[str, Any] | None = None  # of metrics, once that is written
    absent: dict[str, str] = field(default_factory=dict)
    new: frozenset[str] = frozenset()
    is_shared: bool = False  # with the other processes of a sharded model


class Recorder:
    """Records steps into a run; whatever goes wrong is raised.

    Args:
        model: The watched model, wrapped or not.
        layers: The layer table.
        patterns: The globs that chose it.
        side: The side that was asked for.
        every: Steps from one snapshot to the next, None for none.
        keep: What is kept of a gradient.
        writer: Of the run; None in processes that only take part in reducing sharded gradients.

    Attributes:
        writer: As above; taken away where the run cannot be written any more.
        last_step: The last step recorded, -1 before the first.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[Layer],
        patterns: Sequence[str] | None,
        side: Literal["auto", "left", "right"],
        every: int | None,
        keep: str,
        writer: RunWriter | None,
    ) -> None:
        self.writer = writer
        self.last_step = -1
        self._model, self._layers, self._every, self._keep = model, layers, every, keep
        self._settings = f"every={every}, keep={keep!r}"
        self._size: int | None = None  # processes that train together
        self._failure: Exception | None = None  # that the others do not know of
        self._all_know = False  # of what goes wrong now
        self._chosen_by = patterns, side
        self._logged: dict[str, Any] = {}
        self._line: dict[str, Any] | None = None  # of metrics, held back until all of it is known
        self._snapshot: _Snapshot | None = None  # of a step that not all optimizers have taken
        self._published: list[int] = []
        self._warned: set[str] = set()

    def log(self, values: Mapping[str, Any]) -> None:
        """Add values to the metrics line of the step that comes next."""
        self._logged |= plain_values(values)

    def step(self, step: int, facts: Mapping[str, Any], scale: float | None, hold: bool, turn: Turn | None) -> None:
        """Record a step, or the turn of another optimizer in it.

        Args:
            step: Optimizer steps taken before.
            facts: What the caller knows; logged values go before it.
            scale: The loss scale that is still in the gradients, None for none.
            hold: Keep the line back until `flush`.
            turn: Of the optimizer that steps; None where there is but one.
        """
        try:
            self._step(step, facts, scale, turn)
        except BaseException:
            self._line = self._snapshot = None
            raise
        if not hold and (turn is None or not turn.others):
            self.flush()

    def _step(self, step: int, facts: Mapping[str, Any], scale: float | None, turn: Turn | None) -> None:
        self._all_know = False
        self._check_size()
        values, self._logged = plain_values(facts) | self._logged, {}
        if "loss" in values and (processes := num_processes()) > 1:
            values = {"loss_of": f"this process, the first of {processes}"} | values
        if turn is None or turn.leads:
            failure = self._begin(step)
            self._line = {"step": step, **values}
            if self._is_due(step):
                others = () if turn is None else turn.others
                self._snapshot = _Snapshot(step, [id(other) for other in others])
                self._collect(self._snapshot, values, scale, turn, failure)
        else:
            self._line = values | (self._line or {"step": step})
            if self._snapshot is not None and id(turn.optimizer) in self._snapshot.waits_for:
                self._snapshot.waits_for.remove(id(turn.optimizer))
                self._collect(self._snapshot, values, scale, turn)
        if self._snapshot is not None and not self._snapshot.waits_for:
            self._publish()

    def _begin(self, step: int) -> Exception | None:
        """Begin a step; what goes wrong is returned where other processes wait in the snapshot that is due."""
        try:
            self._end_step(publish=self._is_due(step))
            self.check_follows(step)
        except Exception as error:
            if not self._is_due(step):
                raise
            return error
        self.last_step = step
        return None

    def _is_due(self, step: int) -> bool:
        return self._every is not None and step % self._every == 0

    def _check_size(self) -> None:
        """A capture is of the processes that it began with."""
        size = self._size = self._size or num_processes()
        if num_processes() != size:
            self._all_know = True
            raise RunError(
                f"{size} processes began this capture, now there are {num_processes()}; end it, and go on with a new "
                "one (resume=True)"
            )

    def failed(self, error: Exception) -> None:
        """The capture ends because of an error, which other processes may not know of."""
        self._failure = None if self._all_know or num_processes() == 1 else error

    def tell(self, step: int, turn: Turn | None) -> None:
        """End the capture in the other processes of a sharded model when they next wait for this one.

        Args:
            step: Optimizer steps taken before.
            turn: As for `step`.
        """
        failure = self._failure
        if failure is None or not self._is_due(step) or not (turn is None or turn.leads):
            return
        layers = present(self._model, self._layers, *self._chosen_by).layers
        if Together.is_needed(layers):
            self._failure = None
            with suppress(type(failure)):
                Together(layers, step, self._settings, failure)

    def check_follows(self, step: int) -> None:
        """Refuse a step that does not come after the last one.

        Args:
            step: Optimizer steps taken before.

        Raises:
            ValueError: If it does not.
        """
        if step <= self.last_step:
            raise ValueError(
                f"step {step} after step {self.last_step}: steps of one capture increase; "
                "for another training make another GradientCapture"
            )

    def amend(self, values: Mapping[str, Any]) -> None:
        """Add values to a line that is held back; without one nothing happens."""
        if self._line is not None:
            self._line |= plain_values(values)

    def flush(self, *, whole: bool = True) -> None:
        """Write what is held back.

        Args:
            whole: Whether a snapshot that an optimizer has not added to is all there will be of it; it is dropped
                otherwise, since a resumed training takes it again.
        """
        self._end_step(publish=whole)
        self._snapshot = None

    def _end_step(self, *, publish: bool) -> None:
        """Write the line of metrics, and what there is of a snapshot that no optimizer can add to any more."""
        if self._snapshot is not None:
            if publish:
                self._publish()
            elif self._line is not None and self._line["step"] == self._snapshot.step:
                self._snapshot.line = self._line  # written now, while the snapshot waits for a later step
        line, self._line = self._line, None
        if line is not None and self.writer is not None:
            self.writer.log(line)

    def begin_again(self, step: int) -> None:
        """Forget what was recorded of a step and later ones: a Trainer has given that attempt up.

        Args:
            step: The first step of the new attempt.
        """
        self._line = self._snapshot = None
        if self.writer is not None:
            self.writer.start_at(step)  # refused where the directory is no longer the writer's
            for old in [old for old in self._published if old >= step]:
                snapshot_path(self.writer.path, old).unlink(missing_ok=True)
        self._published = [old for old in self._published if old < step]
        self.last_step = step - 1

    @torch.no_grad()
    def _collect(
        self,
        into: _Snapshot,
        values: dict[str, Any],
        scale: float | None,
        turn: Turn | None,
        failure: Exception | None = None,
    ) -> None:
        """Add the gradients that are due now, and their norm."""
        held = into.collected.layers
        now = present(self._model, self._layers, *self._chosen_by)  # others may be frozen in the turn of an optimizer
        first = not into.absent and not held and not into.new
        into.absent = now.absent if first else {k: v for k, v in into.absent.items() if k in now.absent}
        into.new = now.new if first else into.new & now.new
        mine = [x for x in now.layers if x.name not in held and (turn is None or turn.concerns(x.parameter))]
        if Together.is_needed(now.layers):
            into.is_shared = self._all_know = True
            into.collected.add(Together(mine, into.step, self._settings, failure).collect(self._keep, scale))
            self._all_know = False
        elif failure is not None:
            raise failure
        else:
            into.collected.add(collect(mine, reduction(self._keep) if self.writer else None, scale))
        if "grad_norm" not in values or num_processes() > 1:  # all processes or none: the norm may need a collective
            parameters = self._model.parameters() if turn is None else turn.parameters(self._model)
            norm = global_norm(parameters, scale)
            into.norms += [] if norm is None else [norm]

    def _publish(self) -> None:
        made, line = self._snapshot, self._line
        self._snapshot = self._line = None  # the line is of no step that was recorded, if this fails
        assert made is not None
        norm = {"grad_norm": math.hypot(*made.norms)} if made.norms else {}
        own = made.line or line
        assert own is not None
        own = {"step": made.step, **norm, **{k: v for k, v in own.items() if k != "step"}}
        failure = None
        try:
            if self.writer is not None:
                self._write(self.writer, made, own)
        except Exception as error:
            failure = error
        if made.is_shared:
            self._all_know = True
            agree(failure)
            self._all_know = False
        elif failure is not None:
            raise failure
        self._line = own if made.line is None else line

    def _write(self, writer: RunWriter, made: _Snapshot, line: dict[str, Any]) -> None:
        collected = made.collected
        missing = [layer.name for layer in self._layers if layer.name not in collected.layers]
        self._warn(made, missing)
        context = {
            **snapshot_context(line),
            "dtype": ",".join(sorted(collected.dtypes)),
            "nonfinite": collected.nonfinite,
            "missing": missing,
        }
        writer.snapshot(made.step, collected.tensors, context)
        self._published.append(made.step)

    def _warn(self, made: _Snapshot, missing: list[str]) -> None:
        for kind, line in changes({k: v for k, v in made.absent.items() if k in missing}, made.new):
            self.warn_once(kind, f"step {made.step}: {line}")
        if made.collected.nonfinite:
            name, count = next(iter(made.collected.nonfinite.items()))
            self.warn_once(
                "nonfinite",
                f"step {made.step}: the gradient of {shown([name])} has {count} non-finite entries; it is recorded as "
                "such and not kept (further ones are recorded without a warning)",
            )
        if len(missing) == len(self._layers):
            self.warn_once(
                "missing",
                f"step {made.step}: no captured layer has a gradient; capture the model that is trained, "
                "between backward and zero_grad",
            )

    def warn_once(self, what: str, message: str) -> None:
        """Warn, but never twice of the same kind of thing."""
        if what not in self._warned:
            self._warned.add(what)
            warnings.warn(message, stacklevel=2)
