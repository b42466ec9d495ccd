"""The task of a configuration, and the model that it trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from subspace_lab.training.config import TrainConfig
from subspace_lab.training.models import build_model
from subspace_lab.training.pretrained import is_encoder
from subspace_lab.training.tasks.answers import AnswerTask
from subspace_lab.training.tasks.arithmetic import arithmetic
from subspace_lab.training.tasks.base import Task
from subspace_lab.training.tasks.classification import classification
from subspace_lab.training.tasks.exercise import Exercise
from subspace_lab.training.tasks.file import file
from subspace_lab.training.tasks.heads import HeadTask
from subspace_lab.training.tasks.instructions import instructions
from subspace_lab.training.tasks.language import LanguageTask
from subspace_lab.training.tasks.questions import questions
from subspace_lab.training.tasks.sentiment import sentiment
from subspace_lab.training.tokens import load_tokens
from subspace_lab.training.workers import ALONE, Workers

ShippedTask = LanguageTask | AnswerTask | HeadTask
LABELLED: dict[str, Callable[[str, Mapping[str, str]], Exercise]] = {
    "sentiment": sentiment,
    "questions": questions,
    "arithmetic": arithmetic,
    "instructions": instructions,
    "classification": classification,
    "file": file,
}


def task_of(config: TrainConfig, workers: Workers, *, streamed: bool | None = None) -> ShippedTask:
    """The task that a configuration names, its data read.

    Args:
        config: A resolved configuration.
        workers: Processes that share an evaluation.
        streamed: Of text: see `load_tokens`.

    Returns:
        The task.

    Raises:
        ValueError: If the data cannot be read, or do not have what the task needs.
    """
    if config.task not in LABELLED:
        return LanguageTask.of_tokens(config, load_tokens(config, streamed=streamed), workers)
    assert config.data
    assert not isinstance(config.columns, str)
    exercise = LABELLED[config.task](config.data, config.columns or {})
    kind = HeadTask if config.model and is_encoder(config.model) else AnswerTask
    return kind.of(config, exercise, workers)


def model_for(config: TrainConfig, task: Task) -> nn.Module:
    """The model that a configuration names, with the head that its task needs; see `build_model`.

    Args:
        config: A resolved configuration.
        task: What it is to learn.

    Returns:
        The model.
    """
    model: nn.Module = build_model(config, outputs=task.head.size if isinstance(task, HeadTask) else None)
    return model


def model_of(config: TrainConfig) -> nn.Module:
    """The model that a configuration names; the rows are read where they decide the head of an encoder.

    Args:
        config: A resolved configuration.

    Returns:
        The model.
    """
    needs_head = config.task in LABELLED and config.model is not None and is_encoder(config.model)
    model: nn.Module = model_for(config, task_of(config, ALONE)) if needs_head else build_model(config)
    return model


def data_hash_of(config: TrainConfig) -> str:
    """The identity of the task that a configuration names.

    Args:
        config: A resolved configuration.

    Returns:
        A hash of the rows in their order; of text of the tokens.
    """
    if config.task == "language":  # text that is too short for a sequence has one, too
        return load_tokens(config).hash
    return task_of(config, ALONE).identity
