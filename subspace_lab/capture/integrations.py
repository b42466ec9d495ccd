"""Callbacks for the trainers of transformers and Lightning; neither is imported before its callback is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from subspace_lab._extras import require
from subspace_lab.capture.gradients import num_processes
from subspace_lab.capture.hooks import learning_rate, loss_scale
from subspace_lab.capture.rounds import Rounds, Turn

if TYPE_CHECKING:
    from lightning.pytorch import Callback
    from transformers import TrainerCallback


class Recording(Protocol):
    """What a callback calls of a `subspace_lab.capture.GradientCapture`."""

    def begin(self, step: int) -> None:
        """An attempt of a trainer begins."""

    def observe(
        self, step: int, *, scale: float | None = None, hold: bool = False, turn: Turn | None = None, **facts: Any
    ) -> None:
        """Record a step before it is taken."""

    def amend(self, **values: Any) -> None:
        """Add values to a metrics line that is held back."""

    def flush(self) -> None:
        """Write the metrics line that is held back."""

    def close(self, *, finished: bool = True) -> None:
        """Finish the run."""


def mean_over_processes() -> str | None:
    """Of what a loss is that a framework has averaged; None where there is a single process."""
    processes = num_processes()
    return f"mean over {processes} processes" if processes > 1 else None


def hf_callback(capture: Recording) -> TrainerCallback:
    """The callback behind `GradientCapture.hf_callback`.

    The metrics line of a step is written when the Trainer has logged (its loss comes after the step), and before it
    saves a checkpoint.

    Args:
        capture: Records the steps.

    Returns:
        A `transformers.TrainerCallback`.
    """
    base: Any = require("transformers", extra="hf").TrainerCallback

    class CaptureCallback(base):  # type: ignore[misc]
        """Records every optimizer step of a Trainer."""

        _begins = False  # whether the next step is the first of an attempt

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            self._begins = True

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            optimizer = kwargs.get("optimizer")
            if self._begins:  # a search for the batch size begins again in the middle
                self._begins = False
                capture.begin(state.global_step)
            capture.observe(
                state.global_step,
                hold=True,
                clipped=bool(args.max_grad_norm and args.max_grad_norm > 0),
                accumulation=args.gradient_accumulation_steps,
                lr=learning_rate(optimizer),
                loss_scale=loss_scale(optimizer),
            )

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
            if (loss := (logs or {}).get("loss")) is not None:
                capture.amend(loss=loss, loss_of=mean_over_processes())

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            capture.flush()

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            capture.close()

    return CaptureCallback()


def lightning_callback(capture: Recording) -> Callback:
    """The callback behind `GradientCapture.lightning_callback`.

    Args:
        capture: Records the steps.

    Returns:
        A `lightning.pytorch.Callback`.
    """
    base: Any = require("lightning.pytorch", extra="lightning").Callback

    class CaptureCallback(base):  # type: ignore[misc]
        """Records every optimizer step of a Trainer."""

        _loss: Any = None  # summed over the micro-batches of a step, as Lightning has divided it
        _rounds: Rounds | None = None  # of the attempt, once it has taken a step
        _seen: tuple[Any, int] | None = None  # the optimizer that stepped last, and when

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
            self._loss = self._rounds = self._seen = None

        def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:  # noqa: ARG002
            loss = loss.detach() / (_scale(trainer) or 1.0)
            self._loss = loss if self._loss is None else self._loss + loss

        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            scale, automatic = _scale(trainer), pl_module.automatic_optimization
            loss, self._loss = self._loss, None
            if self._seen == (optimizer, trainer.global_step):
                return  # a closure is evaluated again, within the same step
            self._seen = (optimizer, trainer.global_step)
            if self._rounds is None:
                self._rounds = Rounds()
                capture.begin(trainer.global_step // len(trainer.optimizers))
            turn = None
            if len(trainer.optimizers) > 1:  # the Trainer's count is that of the steps of all of them
                for known in [known for known in (*trainer.optimizers, optimizer) if known not in self._rounds]:
                    self._rounds.add(known, trainer.global_step // len(trainer.optimizers))
                turn = self._rounds.turn(optimizer)
            capture.observe(
                trainer.global_step if turn is None else turn.step,
                turn=turn,
                scale=scale if getattr(optimizer, "_step_supports_amp_scaling", False) else None,
                clipped=False if automatic else "unknown",
                accumulation=trainer.accumulate_grad_batches if automatic else None,
                loss=loss if automatic else None,
                lr=learning_rate(optimizer),
                loss_scale=scale,
            )

        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:  # noqa: ARG002
            capture.close(finished=False)

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
            capture.close()

    return CaptureCallback()


def _scale(trainer: Any) -> float | None:
    """The loss scale of a Lightning Trainer in mixed precision, None without one."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return float(scaler.get_scale()) if scaler is not None and scaler.is_enabled() else None
