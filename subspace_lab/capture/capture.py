"""Watching the gradients of a training run."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from subspace_lab._checks import check_choice, whole_number
from subspace_lab._paths import local_path
from subspace_lab.capture.gradients import is_alone, is_writer, launcher, num_processes
from subspace_lab.capture.hooks import StepHook, bare_optimizer
from subspace_lab.capture.integrations import hf_callback, lightning_callback
from subspace_lab.capture.layers import select_layers
from subspace_lab.capture.others import remove_empty, supersede
from subspace_lab.capture.present import left_out
from subspace_lab.capture.record import Recorder
from subspace_lab.capture.reductions import reduction
from subspace_lab.capture.rounds import Rounds, Turn
from subspace_lab.capture.together import in_a_line
from subspace_lab.runs import RunError, RunWriter
from subspace_lab.runs.manifest import plain
from subspace_lab.runs.snapshot import NUM_STEPS

if TYPE_CHECKING:
    from lightning.pytorch import Callback
    from transformers import TrainerCallback


class GradientCapture:
    """Writes the gradients of chosen layers, reduced, into a run directory: one snapshot every few optimizer steps.

    It gets its steps in one of four ways: `attach` to an optimizer, `hf_callback`, `lightning_callback`, or `step`
    called by hand. Steps count optimizer steps already taken: the first gradient is step 0, and ``every=k`` captures
    0, k, 2k, ... A line of metrics is written for every step.

    A capture that is made while an earlier one is still open at the same path or on the same optimizer, as when a cell
    of a notebook is run again, takes its place, and says so.

    In a distributed job every process makes its own capture of the model, and the first one writes. Sharded gradients
    (FSDP2, tensor parallel, or both) are reduced by all processes together: Gram matrices are summed over shards of
    their columns, and where a reduction needs a whole gradient, every process works on a layer of its own.

    A gradient that is not finite is recorded as such (layer and count of bad entries), warned about once, and not kept.

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
        places: For the manifest: where the files that ``config`` names were, by setting.
        on_error: What becomes of a training whose steps cannot be recorded (a full disk, a run directory that was
            removed, a resumed run that takes another course): ``"warn"`` says so once, ends the capture and lets the
            training go on, ``"raise"`` ends both. Wrong arguments are errors in any case.

    Raises:
        ValueError: If an argument is wrong, or a pattern matches nothing (the nearest names are in the message).
        RunError: If there is a run already and ``resume`` is not set, or the directory cannot be written.
        TypeError: If `model` is not a module.
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
        places: Mapping[str, Any] | None = None,
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"GradientCapture(model, path) takes the model first, got {type(model).__name__}")
        check_choice("on_error", on_error, ("warn", "raise"))
        if every is not None:
            every = whole_number("every", every, otherwise=", or None for no snapshots")
        patterns = _patterns(layers)
        self._model, self._path = model, local_path(path, error=RunError).absolute()
        if line := left_out(model, patterns):
            warnings.warn(line, stacklevel=2)
        table = select_layers(model, patterns, side)
        about = {"config": config, "seeds": seeds, "data_hash": data_hash, "evaluation": evaluation, "plan": plan}
        about["places"] = places
        reduction(keep)  # an unknown one is refused before anything is written
        writer = None
        if is_writer():
            if not resume:
                remove_empty(self._path)
            writer = RunWriter(
                self._path,
                layers=[layer.row() for layer in table],
                capture={"every": every, "keep": keep, "layers": patterns, "side": side},
                about=plain("config, seeds, data_hash, evaluation or plan", about),
                resume=resume,
            )
        self._recorder = Recorder(model, table, patterns, side, every, keep, writer)
        self._rounds = Rounds()
        self._raises = on_error == "raise"
        self._driver: str | None = None  # where the steps come from
        self._handles: list[RemovableHandle] = []
        self._state: Literal["open", "closed", "stopped"] = "open"
        self._table = table
        self._versions: list[tuple[weakref.ref[Tensor], int]] = []  # of the parameters, when optimizers were attached
        supersede(self, lambda other: other.path == self.path, f"another one writes into {self._path} now")

    @property
    def path(self) -> Path:
        """The run directory."""
        return self._path

    def attach(self, optimizer: torch.optim.Optimizer, start_step: int = 0) -> None:
        """Capture before every step of an optimizer: for plain loops and Accelerate.

        With a closure (``optimizer.step(closure)``) the gradient is that of its first evaluation. Under a `GradScaler`
        the gradient is captured unscaled, and a step that the scaler skips is neither counted nor recorded; the scale
        is known, and recorded, with fused optimizers and Accelerate.

        Where several optimizers share the model, attach to each of them: a gradient is captured when its own optimizer
        is about to step, and the optimizers' steps of the same number are one step of the run. What belongs to none of
        them is captured with the first.

        Args:
            optimizer: The optimizer, as Accelerate prepared it or bare.
            start_step: Optimizer steps taken before, for a resumed run.

        Raises:
            ValueError: Under Lightning, which needs `lightning_callback`; if this capture has its steps from
                somewhere else already; or if it is not an optimizer.
        """
        bare = bare_optimizer(optimizer, self._model)
        if self._driver != "attach()" or bare in self._rounds:
            self._check_free("attach()")
        self._check_open()
        self._rounds.add(bare, whole_number("a step", start_step, 0, NUM_STEPS))
        hook = torch.compiler.disable(  # type: ignore[no-untyped-call]  # where the step is compiled, this is not
            StepHook(self.observe, optimizer, self._rounds).__call__, reason="gradients are captured before each step"
        )
        self._handles.append(bare.register_step_pre_hook(hook))
        self._driver = "attach()"
        self._versions += [(weakref.ref(x.parameter), x.parameter._version) for x in self._table]
        supersede(self, lambda other: other.has_begun and bare in other._rounds, "another one is on its optimizer now")

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
        self._take_model("hf_callback()")
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
        self._take_model("lightning_callback()")
        return callback

    def step(self, step: int) -> None:
        """Record a step by hand: call it for every one, between backward (and unscaling) and ``optimizer.step``.

        Args:
            step: Optimizer steps taken before.

        Raises:
            ValueError: If this capture has its steps from somewhere else, or the step does not follow the last one.
            RunError: If the run cannot be written, and ``on_error="raise"``.
        """
        step = whole_number("a step", step, 0, NUM_STEPS)
        self._check_open()
        if self._driver != "step()":
            self._check_free("step()")
            self._driver = "step()"
        self._recorder.check_follows(step)
        self.observe(step)

    def log(self, **values: Any) -> None:
        """Add values to the metrics line of the step that comes next, and to its snapshot if there is one.

        Into the snapshot go ``loss``, ``lr``, ``grad_norm``, ``clipped`` (whether the gradients were clipped before
        they are captured), ``accumulation`` and ``loss_scale``; into the metrics goes everything, ``tokens`` and
        ``seconds`` for example. What is not logged is found out where possible: the learning rate from an attached
        optimizer, the global gradient norm at captured steps. In a distributed job the loss is that of the first
        process, and ``loss_of`` in the metrics says so; log the mean, with a ``loss_of`` of your own, for that of all.

        Args:
            **values: Numbers, strings, booleans, or tensors of one element; None is left out.

        Raises:
            ValueError: If a value is something else, or the capture is closed.
        """
        self._check_open()
        self._recorder.log(values)

    def observe(
        self, step: int, *, scale: float | None = None, hold: bool = False, turn: Turn | None = None, **facts: Any
    ) -> None:
        """Record a step: what hooks and callbacks call. What goes wrong does not end the training, see ``on_error``.

        Args:
            step: Optimizer steps taken before.
            scale: The loss scale that is still in the gradients, None for none.
            hold: Keep the metrics line back until `flush`, for `amend`.
            turn: Whose step it is, where several optimizers share the model.
            **facts: What the caller knows of the step; logged values go before it.
        """
        recorder = self._recorder
        if self._state == "closed":
            recorder.warn_once("closed", f"step {step} is not captured: {self._closed()}")
        elif self._state == "stopped":
            recorder.tell(step, turn)
        else:
            self._say_whether_it_writes()
            with self._guarded():
                recorder.step(step, facts, scale, hold, turn)

    def begin(self, step: int) -> None:
        """A Trainer begins an attempt, its first one or another: what callbacks call.

        Args:
            step: Optimizer steps taken before. What an earlier attempt recorded of it and later ones is replaced.
        """
        recorder, last = self._recorder, self._recorder.last_step
        if self._state != "closed" and step <= last:
            recorder.warn_once(
                f"again {step} {last}",
                f"the training began again at step {step} after step {last}: what was captured from there on is "
                f"replaced in {self._path}",
            )
            with self._guarded():
                recorder.begin_again(step)

    def amend(self, **values: Any) -> None:
        """Add values to a metrics line that is held back; without one nothing happens."""
        with self._guarded():
            self._recorder.amend(values)

    def flush(self) -> None:
        """Write the metrics line that is held back, if there is one."""
        with self._guarded():
            self._recorder.flush()

    def close(self, *, finished: bool = True) -> None:
        """Remove all hooks and finish the run; calling it again does nothing.

        Args:
            finished: False for a run that was interrupted and may be resumed.
        """
        if self._state != "open":
            return
        if finished:
            self.say_unseen()
        with self._guarded():
            try:
                self._recorder.flush(whole=finished)
            finally:
                self._end("closed", finished=finished)

    def supersede(self, reason: str) -> None:
        """End because another capture takes this one's place, as when a notebook's cell is run again.

        Args:
            reason: What the other one does.
        """
        self.say_unseen()
        with suppress(Exception):
            self._recorder.flush(whole=False)
        with suppress(Exception):
            self._end("stopped", finished=False)
        if self.has_begun:
            warnings.warn(
                f"the capture into {self._path} was not closed, and {reason}: it ends after step "
                f"{self._recorder.last_step}, unfinished ('with GradientCapture(...) as capture:' closes one)",
                stacklevel=4,
            )

    @property
    def has_begun(self) -> bool:
        """Whether a step was recorded."""
        return self._recorder.last_step >= 0

    @property
    def is_open(self) -> bool:
        """Whether it goes on recording."""
        return self._state == "open"

    def say_unseen(self) -> None:
        """Warn if the attached optimizers were never seen to step while the parameters changed."""
        if self._driver != "attach()" or self.has_begun or self._recorder.writer is None or not self._handles:
            return
        if any((parameter := known()) is not None and parameter._version != v for known, v in self._versions):
            self._recorder.warn_once(
                "unseen",
                f"the parameters changed and no call of step() of the attached optimizer was seen: nothing is captured "
                f"in {self._path}; call capture.step(n) by hand before whatever takes the step",
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(finished=kind is None)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Whatever fails ends the capture and not the training, unless that was asked for."""
        try:
            yield
        except Exception as error:
            if self._raises:
                raise
            self._recorder.failed(error)
            with suppress(Exception):
                self._end("stopped", finished=False)
            self._recorder.warn_once(
                "stopped", f"the capture into {self._path} stops here, the training goes on: {in_a_line(error)}"
            )

    def _end(self, state: Literal["closed", "stopped"], *, finished: bool) -> None:
        if self._state != "closed":
            self._state = state
        if state == "closed" or num_processes() == 1:
            for handle in self._handles:
                handle.remove()
        writer = self._recorder.writer
        if state == "stopped":
            self._recorder.writer = None
        if writer is not None:
            writer.close(finished=finished)

    def _take_model(self, driver: str) -> None:
        self._driver = driver
        supersede(
            self,
            lambda other: other.has_begun and other._driver == driver and other._model is self._model,
            "another one is to watch its model",
        )

    def _say_whether_it_writes(self) -> None:
        """Processes that only launchers' variables distinguish may be alone."""
        if self._recorder.writer is None and self._state == "open" and is_alone():
            self._recorder.warn_once(
                "rank",
                f"nothing is captured in {self._path} by this process: variables of its environment "
                f"({launcher()}) say that another one is the first; without those, or with a process group of its own, "
                "it would write",
            )

    def _check_open(self) -> None:
        if self._state == "closed":
            raise ValueError(self._closed())

    def _closed(self) -> str:
        return f"the capture into {self._path} is closed; to go on, make a new one with resume=True"

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
