"""Watching the gradients of a training run."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from subspace_lab._paths import local_path
from subspace_lab.capture.collect import Collected, collect
from subspace_lab.capture.gradients import global_norm, is_writer, num_processes
from subspace_lab.capture.hooks import StepHook, bare_optimizer
from subspace_lab.capture.integrations import hf_callback, lightning_callback
from subspace_lab.capture.layers import select_layers
from subspace_lab.capture.reductions import reduction
from subspace_lab.capture.values import plain_values, snapshot_context
from subspace_lab.runs import RunError, RunWriter
from subspace_lab.runs.manifest import plain

if TYPE_CHECKING:
    from lightning.pytorch import Callback
    from transformers import TrainerCallback


class GradientCapture:
    """Writes the gradients of chosen layers, reduced, into a run directory: one snapshot every few optimizer steps.

    It gets its steps in one of four ways: `attach` to an optimizer, `hf_callback`, `lightning_callback`, or `step`
    called by hand. Steps count optimizer steps already taken: the first gradient is step 0, and ``every=k`` captures
    0, k, 2k, ... A line of metrics is written for every step.

    In a distributed job every process makes its own capture of the model, and the first one writes; sharded gradients
    (FSDP2) are gathered layer by layer. A gradient that is not finite is recorded as such (layer and count of bad
    entries), warned about once, and not kept.

    Args:
        model: The model, before or after it is wrapped, compiled or sharded with ``fully_shard``.
        path: The run directory.
        every: Steps from one snapshot to the next; None takes none, and writes metrics only.
        keep: ``"full"``, ``"gram"``, ``"topk:K"`` or ``"stats"``: see `subspace_lab.capture.reductions`.
        layers: Globs on parameter names; None takes every trainable parameter of two dimensions or more.
        side: Side of the subspace: ``"auto"`` for the shorter one of each layer, or one for all.
        resume: Go on with the run that is there. Metrics from the first step on are written again, and snapshots
            taken again must be identical to those that are there.
        config: For the manifest: the resolved configuration of the run.
        seeds: For the manifest: all seeds by name.
        data_hash: For the manifest: a hash of the data.
        evaluation: For the manifest: the examples on which quantities of the loss are measured afterwards.
        plan: For the manifest: the plan that the optimizer was made of.

    Raises:
        ValueError: If an argument is wrong, or a pattern matches nothing (the nearest names are in the message).
        RunError: If there is a run already and ``resume`` is not set, or the directory cannot be written.
        TypeError: If the model is none.
    """

    def __init__(
        self,
        model: nn.Module,
        path: str | Path,
        *,
        every: int | None = 10,
        keep: str = "gram",
        layers: str | Sequence[str] | None = None,
        side: Literal["auto", "left", "right"] = "auto",
        resume: bool = False,
        config: Mapping[str, Any] | None = None,
        seeds: Mapping[str, int] | None = None,
        data_hash: str | None = None,
        evaluation: Mapping[str, Any] | None = None,
        plan: Mapping[str, Any] | None = None,
    ) -> None:
        if every is not None and (isinstance(every, bool) or not isinstance(every, int) or every < 1):
            raise ValueError(f"every must be a whole number of at least 1, or None for no snapshots, got {every!r}")
        if not isinstance(model, nn.Module):
            raise TypeError(f"GradientCapture(model, path) takes the model first, got {type(model).__name__}")
        patterns = _patterns(layers)
        self._model, self._every, self._path = model, every, local_path(path, error=RunError)
        self._layers = select_layers(model, patterns, side)
        about = {"config": config, "seeds": seeds, "data_hash": data_hash, "evaluation": evaluation, "plan": plan}
        self._reduce = reduction(keep)
        self._writer: RunWriter | None = None
        if is_writer():
            self._writer = RunWriter(
                self._path,
                layers=[layer.row() for layer in self._layers],
                capture={"every": every, "keep": keep, "layers": patterns, "side": side},
                about=plain("config, seeds, data_hash, evaluation or plan", about),
                resume=resume,
            )
        self._driver: str | None = None  # where the steps come from
        self._handle: RemovableHandle | None = None
        self._closed = False
        self._last_step = -1
        self._logged: dict[str, Any] = {}
        self._line: dict[str, Any] | None = None  # of metrics, held back until the framework has told all of it
        self._warned: set[str] = set()

    def attach(self, optimizer: torch.optim.Optimizer, start_step: int = 0) -> None:
        """Capture before every step of an optimizer: for plain loops and Accelerate.

        With a closure (``optimizer.step(closure)``) the gradient is that of its first evaluation. Under a `GradScaler`
        the gradient is captured unscaled, and a step that the scaler skips is neither counted nor recorded; the scale
        is known, and recorded, with fused optimizers and Accelerate. Where several optimizers share the model, attach
        to the one that steps first.

        Args:
            optimizer: The optimizer, as Accelerate prepared it or bare.
            start_step: Optimizer steps taken before, for a resumed run.

        Raises:
            ValueError: Under Lightning, which needs `lightning_callback`; if this capture has its steps from
                somewhere else already; or if it is no optimizer.
        """
        self._check_free("attach()")
        bare = bare_optimizer(optimizer, self._model)
        self._handle = bare.register_step_pre_hook(StepHook(self.observe, optimizer, _whole(start_step)))
        self._driver = "attach()"

    def hf_callback(self) -> TrainerCallback:
        """A callback for the `Trainer` of transformers, which closes the run when the training ends.

        That Trainer clips before it calls back: with ``max_grad_norm > 0`` the gradients are captured clipped and
        marked so. The loss is what the Trainer logs, so that it is there at logging steps only. Steps are the
        Trainer's; one that a `GradScaler` skips is counted there, and here as well.

        Returns:
            An object for ``Trainer(callbacks=[...])``.

        Raises:
            ValueError: If this capture has its steps from somewhere else already.
        """
        self._check_free("hf_callback()")
        callback = hf_callback(self)
        self._driver = "hf_callback()"
        return callback

    def lightning_callback(self) -> Callback:
        """A callback for the Trainer of Lightning, which closes the run when the fit ends or is interrupted.

        Gradients are captured before Lightning clips them. Steps are the Trainer's ``global_step``; one that a
        `GradScaler` skips is counted there, and here as well.

        Returns:
            An object for ``Trainer(callbacks=[...])``.

        Raises:
            ValueError: If this capture has its steps from somewhere else already.
        """
        self._check_free("lightning_callback()")
        callback = lightning_callback(self)
        self._driver = "lightning_callback()"
        return callback

    def step(self, step: int) -> None:
        """Record a step by hand: call it for every one, between backward (and unscaling) and ``optimizer.step``.

        Args:
            step: Optimizer steps taken before.

        Raises:
            ValueError: If this capture has its steps from somewhere else, or the step does not follow the last one.
            RunError: If the run cannot be written.
        """
        if self._driver != "step()":
            self._check_free("step()")
            self._driver = "step()"
        self.observe(step)

    def log(self, **values: Any) -> None:
        """Add values to the metrics line of the step that comes next, and to its snapshot if there is one.

        Into the snapshot go ``loss``, ``lr``, ``grad_norm``, ``clipped`` (whether the gradients were clipped before
        they are captured), ``accumulation`` and ``loss_scale``; into the metrics goes everything, ``tokens`` and
        ``seconds`` for example. What is not logged is found out where possible: the learning rate from an attached
        optimizer, the global gradient norm at captured steps.

        Args:
            **values: Numbers, strings, booleans, or tensors of one element; None is left out.

        Raises:
            ValueError: If a value is something else, or the capture is closed.
        """
        self._check_open()
        self._logged |= plain_values(values)

    def observe(self, step: int, *, scale: float | None = None, hold: bool = False, **facts: Any) -> None:
        """Record a step: what hooks and callbacks call.

        Args:
            step: Optimizer steps taken before.
            scale: The loss scale that is still in the gradients, None for none.
            hold: Keep the metrics line back until `flush`, for `amend`.
            **facts: What the caller knows of the step; logged values go before it.

        Raises:
            ValueError: If the step does not follow the last one, or the capture is closed.
            RunError: If the run cannot be written.
        """
        self._check_open()
        self.flush()
        if _whole(step) <= self._last_step:
            raise ValueError(
                f"step {step} after step {self._last_step}: steps of one capture increase; "
                "for another training make another GradientCapture"
            )
        self._last_step = step
        values, self._logged = plain_values(facts) | self._logged, {}
        if self._every is not None and step % self._every == 0:
            values = self._capture(step, values, scale)
        self._line = {"step": step, **values}
        if not hold:
            self.flush()

    def amend(self, **values: Any) -> None:
        """Add values to a metrics line that is held back; without one nothing happens."""
        if self._line is not None:
            self._line |= plain_values(values)

    def flush(self) -> None:
        """Write the metrics line that is held back, if there is one."""
        line, self._line = self._line, None
        if line is not None and self._writer is not None:
            self._writer.log(line)

    def close(self, *, finished: bool = True) -> None:
        """Remove all hooks and finish the run; calling it again does nothing.

        Args:
            finished: False for a run that was interrupted and may be resumed.
        """
        if self._closed:
            return
        self._closed = True
        if self._handle is not None:
            self._handle.remove()
        try:
            self.flush()
        finally:
            if self._writer is not None:
                self._writer.close(finished=finished)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(finished=kind is None)

    @torch.no_grad()
    def _capture(self, step: int, values: dict[str, Any], scale: float | None) -> dict[str, Any]:
        """Publish the snapshot of a step; returns the values with the gradient norm among them."""
        if "grad_norm" not in values or num_processes() > 1:  # all processes or none: the norm may need a collective
            values = plain_values({"grad_norm": global_norm(self._model.parameters(), scale)}) | values
        collected = collect(self._layers, self._reduce if self._writer else None, scale)
        if self._writer is not None:
            self._warn(step, collected)
            context = {
                **snapshot_context(values),
                "dtype": ",".join(sorted(collected.dtypes)),
                "nonfinite": collected.nonfinite,
                "missing": collected.missing,
            }
            self._writer.snapshot(step, collected.tensors, context)
        return values

    def _warn(self, step: int, collected: Collected) -> None:
        if collected.nonfinite:
            name, count = next(iter(collected.nonfinite.items()))
            self._warn_once(
                "nonfinite",
                f"step {step}: the gradient of {name} has {count} non-finite entries; it is recorded as such and not "
                "kept (further ones are recorded without a warning)",
            )
        if len(collected.missing) == len(self._layers):
            self._warn_once(
                "missing",
                f"step {step}: no captured layer has a gradient; capture the model that is trained, "
                "between backward and zero_grad",
            )

    def _warn_once(self, what: str, message: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            warnings.warn(message, stacklevel=2)

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"the capture into {self._path} is closed; to go on, make a new one with resume=True")

    def _check_free(self, wanted: str) -> None:
        self._check_open()
        if self._driver is not None:
            raise ValueError(
                f"{wanted}: this capture gets its steps from {self._driver} already; "
                "use one way only, and one GradientCapture for each training"
            )


def _patterns(layers: str | Sequence[str] | None) -> list[str] | None:
    if layers is None:
        return None
    patterns = [layers] if isinstance(layers, str) or not isinstance(layers, Iterable) else list(layers)
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise ValueError(f"layers takes patterns on parameter names, such as '*.mlp.*', got {pattern!r}")
    return patterns


def _whole(step: int) -> int:
    try:
        whole = operator.index(step)
    except TypeError:
        whole = -1
    if whole < 0:
        raise ValueError(f"a step must be a whole number, at least 0, got {step!r}")
    return whole
