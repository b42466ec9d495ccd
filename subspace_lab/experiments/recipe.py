"""Recipes: how a trial is run from its configuration, and which of its settings decide the outcome."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from subspace_lab._reading import read_json
from subspace_lab.experiments.hashing import source_hash
from subspace_lab.experiments.plugins import is_shipped
from subspace_lab.runs import Run, RunError
from subspace_lab.runs.files import file_hash, publish, publish_json
from subspace_lab.runs.metrics import check_number, read_metrics
from subspace_lab.training import TrainConfig

if TYPE_CHECKING:
    from torch import nn

WEIGHTS = "weights.safetensors"
STATE = "state.json"  # what is to be known of the checkpoints after they are removed
# Where and how fast a training runs, and what it keeps to be resumed, do not change its results.
_NOT_CONTENT = ("threads", "sharding", "checkpoint_every", "keep_checkpoints", "data", "tokenizer")


@dataclass(frozen=True)
class Measured:
    """The result of a recipe.

    Attributes:
        metrics: Values by name.
        state_bytes: Of the optimizer's tensors; None where there was no optimizer.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    state_bytes: int | None = None


class Recipe(Protocol):
    """How trials of a kind are run; a plug-in is any object with these two methods.

    Where several processes are to share a trial, they run it if the recipe has a method ``shares`` that says so of the
    configuration; other trials are run by one process.
    """

    def identity(self, config: Mapping[str, Any], *, data_hash: str | None = None) -> Mapping[str, Any]:
        """What of a configuration decides the outcome: settings with every default filled in, data, revisions.

        Args:
            config: Of a trial.
            data_hash: Of the rows in their order, where it is known already.

        Returns:
            Plain values without paths, threads or devices.
        """

    def run(
        self, directory: Path, config: Mapping[str, Any], parents: Sequence[Path], *, resume: bool, keeps_weights: bool
    ) -> Measured:
        """Run a trial in its directory, or resume an earlier attempt.

        Args:
            directory: The trial's own.
            config: Its configuration.
            parents: Directories of the trials that it begins from; each has `WEIGHTS`.
            resume: Whether an earlier attempt is continued.
            keeps_weights: Whether to leave `WEIGHTS` for other trials.

        Returns:
            The measurements; of several processes that share a trial only the first returns them.
        """


class Train:
    """A training by `subspace_lab.train`; where it has a parent, from the parent's weights."""

    def shares(self, config: Mapping[str, Any]) -> bool:  # noqa: ARG002
        """See `Recipe`."""
        return True

    def identity(self, config: Mapping[str, Any], *, data_hash: str | None = None) -> Mapping[str, Any]:
        """See `Recipe.identity`."""
        from subspace_lab.training.pretrained import weight_files
        from subspace_lab.training.tasks.table import data_hash_of

        settings = TrainConfig.from_dict(config)
        content = settings_content(settings)
        content["data_hash"] = data_hash_of(settings) if data_hash is None else data_hash
        if settings.model is not None and (files := weight_files(settings.model)):
            content["model"] = {file.name: file_hash(file) for file in files}
        return content

    def run(
        self, directory: Path, config: Mapping[str, Any], parents: Sequence[Path], *, resume: bool, keeps_weights: bool
    ) -> Measured:
        """See `Recipe.run`; the checkpoints are removed at the end, since tables are made of metrics and outcomes."""
        from safetensors.torch import save_file

        from subspace_lab.training import train
        from subspace_lab.training.checkpoint import checkpoint_path, checkpoint_steps, model_tensors, optimizer_bytes

        settings = TrainConfig.from_dict(config)
        if not (resume and Run.open(directory).manifest.get("finished")):
            train(directory, settings, resume=resume, model=_from_parent(settings, parents))
        if not is_first():
            return Measured()
        kept = directory / STATE
        if steps := checkpoint_steps(directory):  # none where it was killed after they were removed
            publish_json(kept, {"state_bytes": optimizer_bytes(directory, steps[-1])})
            if keeps_weights:
                with publish(directory / WEIGHTS) as aside:
                    save_file(model_tensors(directory, steps[-1]), aside)
            for step in steps:
                checkpoint_path(directory, step).unlink()
        return Measured(last_metrics(directory), read_json(kept)["state_bytes"] if kept.is_file() else None)


def settings_content(settings: TrainConfig) -> dict[str, Any]:
    """What of the settings of a training decides its outcome, all defaults filled in, without data and model files.

    Args:
        settings: A resolved configuration from `settle_optimizer`.

    Returns:
        Plain values.
    """
    from subspace_lab.training.optimizers import filled_options, plan_of, revision_of

    content = {name: value for name, value in settings.to_dict().items() if name not in _NOT_CONTENT}
    content["lr_rest"] = settings.lr if settings.lr_rest is None else settings.lr_rest
    content["revision"] = revision_of(settings)
    content["optimizer_options"] = filled_options(settings)
    if (plan := plan_of(settings)) is not None:
        content["optimizer_options"]["plan"] = plan
    return content


RECIPES: dict[str, Recipe] = {"train": Train()}


def recipe_named(name: str, plugins: Sequence[str] = ()) -> Recipe:
    """A recipe by its name.

    Args:
        name: A key of `RECIPES`, or ``module:attribute`` of this package or of a plug-in.
        plugins: Modules that the caller named.

    Returns:
        The recipe.

    Raises:
        ValueError: If it is not known, or of a module that is not of this package and was not named.
    """
    module, colon, attribute = name.partition(":")
    if name in RECIPES:
        return RECIPES[name]
    if not colon:
        raise ValueError(f"the recipe {name!r} is not known (known: {', '.join(RECIPES)}, or module:attribute)")
    if module not in plugins and not is_shipped(module):
        raise ValueError(f"the recipe {name!r} is of the plug-in {module!r}, which was not named; give plugins=")
    try:
        found: Recipe = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"the recipe {name!r} cannot be imported: {error}") from error
    return found


def is_shared(name: str, config: Mapping[str, Any], plugins: Sequence[str] = ()) -> bool:
    """Whether several processes may share a trial of a recipe (see `recipe_named`) with a configuration."""
    recipe: Any = recipe_named(name, plugins)
    return hasattr(recipe, "shares") and bool(recipe.shares(config))


def content_of(
    recipe: str, config: Mapping[str, Any], *, plugins: Sequence[str] = (), data_hash: str | None = None
) -> dict[str, Any]:
    """What a trial's hash covers, including the source of a plug-in's recipe; see `Recipe.identity`."""
    content = dict(recipe_named(recipe, plugins).identity(config, data_hash=data_hash))
    module, colon, _ = recipe.partition(":")
    return {**content, "source": source_hash(module)} if colon and not is_shipped(module) else content


def last_metrics(directory: Path) -> dict[str, float]:
    """All values of a run's last evaluation whose name begins with ``eval_``; RunError if one is not a number."""
    path = directory / "metrics.jsonl"
    for row in reversed(read_metrics(path)):
        found = {name: value for name, value in row.items() if name.startswith("eval_") and value is not None}
        for name in found:
            check_number(path, row, name)
        if found:
            return {name: float(value) for name, value in found.items()}
    return {}


def _from_parent(config: TrainConfig, parents: Sequence[Path]) -> nn.Module | None:
    if not parents:
        return None
    from safetensors.torch import load_file

    from subspace_lab.training.checkpoint import fill_model
    from subspace_lab.training.tasks.table import model_of

    if len(parents) > 1:
        raise RunError(f"a training begins from the weights of one trial, got {len(parents)}")
    model = model_of(config)
    fill_model(model, load_file(parents[0] / WEIGHTS), parents[0] / WEIGHTS)
    return model


def weights_hash(directory: Path) -> str | None:
    """SHA-256 of the weights that a trial left, None where there are none."""
    file = directory / WEIGHTS
    return file_hash(file) if file.is_file() else None


def is_first() -> bool:
    """Whether this process is the first of those that share a trial: the one that measures and writes."""
    return os.environ.get("RANK", "0") == "0"
