"""The models of a run at its checkpoints, and the sequences that its loss is measured on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from subspace_lab._extras import require
from subspace_lab.analysis.arguments import check_run
from subspace_lab.runs import Run, RunError
from subspace_lab.runs.errors import in_shell
from subspace_lab.training.checkpoint import checkpoint_steps, load_model
from subspace_lab.training.evaluation import EvaluationSet
from subspace_lab.training.models import build_model
from subspace_lab.training.places import tokens_of_run
from subspace_lab.training.sequences import Sequences
from subspace_lab.training.start import stored_config

if TYPE_CHECKING:
    from subspace_lab.training.config import TrainConfig


def language_loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """The mean cross-entropy of the next token, nats; in full precision, whatever the run was trained in."""
    loss: Tensor = model(**batch).loss
    return loss


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a training run.

    Attributes:
        run: The run.
        config: How it was trained.
        steps: After how many steps there is a checkpoint, ascending, at least one.
        evaluation: The sequences that the loss is measured on, those that the manifest names.
    """

    run: Run
    config: TrainConfig
    steps: list[int]
    evaluation: EvaluationSet

    @classmethod
    def of(cls, run: Run, **places: str | None) -> Self:
        """Look for a run's checkpoints, and read its data again.

        Args:
            run: A run of `subspace_lab.train`.
            **places: Where ``data``, ``model`` and ``tokenizer`` are now, where they are not found any more.

        Returns:
            Its checkpoints.

        Raises:
            RunError: If it has none (the message says how to make them), was not begun by a training, or its data are
                not what they were.
        """
        config = check_checkpoints(run)
        require("transformers", extra="hf")
        config, data = tokens_of_run(run, config, **places)
        assert config.sequence_length is not None
        sequences = Sequences(data.tokens, config.sequence_length, hold_out=config.eval_every is not None)
        evaluation = EvaluationSet.of(sequences)
        if (named := run.manifest.get("evaluation")) is not None and named != evaluation.facts():
            raise RunError(
                f"{run.path} names other evaluation sequences in its manifest than this release takes ({named} there, "
                f"{evaluation.facts()} now); measure it with the release that trained it"
            )
        return cls(run, config, checkpoint_steps(run.path), evaluation)

    def models(self) -> Iterator[tuple[int, nn.Module]]:
        """The model after each checkpoint's steps: one model, loaded again and again, in evaluation mode.

        Yields:
            Steps and model; it is on the GPU where there is one.
        """
        with torch.random.fork_rng(devices=[]):  # building draws the weights that the checkpoint replaces
            model = build_model(self.config)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        nn.Module.to(model, device)
        model.eval()
        for step in self.steps:
            load_model(self.run.path, step, model)
            yield step, model

    def batch(self, count: int, device: torch.device) -> dict[str, Tensor]:
        """So many of the evaluation sequences, as a batch of transformers.

        Args:
            count: How many; all of them when there are fewer.
            device: Where to.

        Returns:
            ``input_ids`` and ``labels`` (count, length).
        """
        tokens = self.evaluation.first(count).to(device)
        return {"input_ids": tokens, "labels": tokens}


def check_checkpoints(run: Run) -> TrainConfig:
    """Refuse a run of which the loss cannot be measured, before anything long is begun.

    Args:
        run: The run.

    Returns:
        How it was trained.

    Raises:
        RunError: If it has no checkpoints, or was not begun by a training.
    """
    check_run(run)
    how = (
        "train with: subspace-lab train NEW_DIR --checkpoint-every 50 --keep-checkpoints 5, "
        "or measure a model of your own with subspace_lab.analysis.hessian(model, loss, batch)"
    )
    if not isinstance(run.manifest.get("config"), dict):
        raise RunError(f"{run.path} was not begun by subspace-lab train, so that it has no checkpoints; {how}")
    config = stored_config(run.path)
    if not checkpoint_steps(run.path):
        resume = f"resume it: subspace-lab train {in_shell(run.path)} --resume"
        raise RunError(f"{run.path} has no checkpoints; {how if run.manifest.get('finished') else resume}")
    return config


def with_place(rows: Any, step: int, run: Run) -> Any:
    """A table of blocks with the step, and with depth and kind from the run's layer table.

    Args:
        rows: A table with a column ``layer``.
        step: The step.
        run: The run.

    Returns:
        The table with ``step``, ``layer``, ``depth`` and ``kind`` first.
    """
    import numpy as np

    layers = {row["name"]: row for row in run.manifest["layers"]}
    names = rows["layer"].astype(str)
    table = rows.assign(
        step=np.int32(step),
        depth=np.array([layers[name]["depth"] if name in layers else -1 for name in names], np.int16),
        kind=[layers[name]["kind"] if name in layers else name for name in names],
    )
    first = ["step", "layer", "depth", "kind"]
    return table[[*first, *(column for column in rows if column not in first)]]


def joined(parts: list[Any]) -> Any:
    """Tables below each other, names categorical."""
    import pandas as pd

    for part in parts:
        part.attrs = {}
    table = pd.concat([part.astype({"layer": str}) for part in parts], ignore_index=True)
    for name in ("layer", "kind", "part"):
        if name in table:
            table[name] = pd.Categorical(table[name], categories=list(dict.fromkeys(table[name].astype(str))))
    return table
