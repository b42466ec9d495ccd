"""The settings of a training run: a frozen dataclass, built by Python, kept as JSON in the run's manifest."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from subspace_lab.training.names import unknown
from subspace_lab.training.presets import FINE_TUNING, Recipe, preset

Precision = Literal["auto", "float32", "bfloat16"]
DEFAULT_PRESET = "llama-7m"
_COUNTS = ("steps", "batch_size", "accumulation", "vocab_size", "rank", "update_interval", "threads", "every",
           "checkpoint_every", "keep_checkpoints", "eval_every", "eval_batches")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What is trained, on what, how, and what of it is captured.

    A field that is None, or ``"auto"``, is open: `resolved` and the start of the training fill it in, and resuming
    takes the value that the run began with. ``clip``, ``every`` and ``eval_every`` are the exceptions, their None means
    off.

    Attributes:
        preset: Name of a LLaMA size, initialized from the seed; ``llama-7m`` when neither this nor ``model`` is given.
        model: A pretrained causal language model instead: ``hf:<name>``, a local directory, or a ``.gguf`` file.
        data: ``stdlib`` (the sources of Python's standard library), a path or glob of text, jsonl or parquet files,
            or ``hf:<dataset>`` (``hf:<dataset>:<subset>``), streamed.
        tokenizer: A ``tokenizer.json``, ``hf:<name>`` or a local directory; by default the pretrained model's own, for
            a preset a byte-level BPE trained on the data.
        vocab_size: Overrides the preset's.
        steps: Optimizer steps.
        batch_size: Sequences per micro-batch, over all processes.
        accumulation: Micro-batches per optimizer step.
        sequence_length: Tokens per sequence, at least two.
        optimizer: ``adamw``, or a method of `subspace_lab.optim` by its name, whatever its case and hyphens.
        rank: Rank of the matrices of attention and MLP; by default the preset's published one, else a quarter of its
            width. Embeddings, head and norms are full-rank in any case.
        update_interval: Steps between two refreshes of the subspace (of BAdam, steps per block); by default the
            method's own where its paper has one, else the preset's published one, else 200.
        scale: Factor on the step of a method with a rank; the method's own by default.
        optimizer_options: Further settings of the optimizer, plain values by name: ``{"walk_step": 0.05}``; on the
            command line ``--optimizer-options.walk-step 0.05``.
        lr: Peak learning rate; of the matrices with a rank where `lr_rest` says another one for the rest.
        lr_rest: Peak learning rate of everything that has no rank with the low-rank methods (embeddings, head, norms
            and biases), with every optimizer, AdamW included; by default `lr`.
        min_lr_ratio: The cosine ends at this share of the peak.
        warmup: Steps of linear warm-up; a tenth of the steps by default.
        betas: Adam's decay rates; the optimizer's own by default, mostly (0.9, 0.999).
        weight_decay: Decoupled weight decay, on every parameter.
        clip: Largest global gradient norm; None does not clip.
        seed: Of the initial weights, the order of the data and any dropout.
        precision: ``bfloat16`` is autocast over float32 weights; ``auto`` measures which one is faster here.
        threads: Of torch on the CPU; results are repeated bit for bit at the same number only.
        every: Capture every so many steps; None captures no gradients and writes metrics only.
        keep: What is kept of a gradient: ``full``, ``gram``, ``topk:K`` or ``stats``.
        layers: Globs on parameter names; the linear layers of attention and MLP by default.
        checkpoint_every: Steps between two checkpoints.
        keep_checkpoints: The last ones that are kept; more of them show how the Hessian of the loss and the noise of
            its gradient change over training.
        eval_every: Steps between two evaluations on held-out text; None never evaluates.
        eval_batches: Micro-batches per evaluation.

    Raises:
        ValueError: If a value is impossible; one line.
    """

    preset: str | None = None
    model: str | None = None
    data: str = "stdlib"
    tokenizer: str | None = None
    vocab_size: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    accumulation: int | None = None
    sequence_length: int | None = None
    optimizer: str = "adamw"
    rank: int | None = None
    update_interval: int | None = None
    scale: float | None = None
    optimizer_options: dict[str, Any] | None = None
    lr: float | None = None
    lr_rest: float | None = None
    min_lr_ratio: float = 0.1
    warmup: int | None = None
    betas: tuple[float, float] | None = None
    weight_decay: float = 0.0
    clip: float | None = 1.0
    seed: int = 0
    precision: Precision = "auto"
    threads: int | None = None
    every: int | None = 10
    keep: str = "gram"
    layers: tuple[str, ...] | None = None
    checkpoint_every: int = 100
    keep_checkpoints: int = 2
    eval_every: int | None = 50
    eval_batches: int = 4

    def __post_init__(self) -> None:
        for name in ("betas", "layers"):  # JSON knows lists only
            if isinstance(value := getattr(self, name), list):
                object.__setattr__(self, name, tuple(value))
        if isinstance(options := self.optimizer_options, Mapping):
            object.__setattr__(self, "optimizer_options", {str(k).replace("-", "_"): v for k, v in options.items()})
        if problem := _problem(self):
            raise ValueError(problem)

    def resolved(self) -> Self:
        """The configuration with the open fields that follow from the preset filled in.

        Returns:
            A configuration whose ``lr``, ``batch_size``, ``accumulation``, ``sequence_length``, ``steps``, ``warmup``
            and (for a preset) ``vocab_size`` are set; it resolves to itself.

        Raises:
            ValueError: If the warm-up is longer than the training.

        >>> TrainConfig(preset="llama-60m").resolved().warmup
        1000
        """
        name = self.preset if self.preset or self.model else DEFAULT_PRESET
        size = preset(name) if name else None
        recipe = size.recipe if size else FINE_TUNING
        values = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(Recipe)}
        if size:
            values |= {"preset": name, "vocab_size": size.vocab_size}
        full = self._filled(values)
        assert full.steps is not None
        full = full._filled({"warmup": full.steps // 10})
        if full.warmup is not None and full.steps is not None and full.warmup > full.steps:
            raise ValueError(f"warmup={full.warmup} is longer than steps={full.steps}; shorten it")
        return full

    def matched(self, before: TrainConfig) -> Self:
        """The configuration with its open fields as in an earlier one, for resuming.

        Args:
            before: The resolved configuration that the run began with.

        Returns:
            A configuration equal to ``before``.

        Raises:
            ValueError: If another field differs; the message names it with both values.
        """
        values = before.to_dict()
        settled = {*_OFF, "preset", "model"} if self.preset or self.model else {*_OFF}
        settled |= {"vocab_size"} if self.model else set()
        full = self._filled({name: value for name, value in values.items() if name not in settled})
        now = full.to_dict()
        differences = [f"{name} {values[name]!r} -> {now[name]!r}" for name in values if values[name] != now[name]]
        if differences:
            raise ValueError("; ".join(differences))
        return full

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values by field."""
        values = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The configuration that `to_dict` wrote.

        Args:
            values: Values by field; fields that are absent take their defaults.

        Returns:
            The configuration.

        Raises:
            ValueError: If a field is not known or a value is impossible.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                raise ValueError(unknown("setting", name, known))
        return cls(**values)

    def _filled(self, values: Mapping[str, Any]) -> Self:
        is_open = {name: value for name, value in values.items() if getattr(self, name) in (None, "auto")}
        return dataclasses.replace(self, **is_open)


_OFF = ("clip", "every", "eval_every")  # None is a value of these


def _problem(config: TrainConfig) -> str | None:
    for name in _COUNTS:
        if (value := getattr(config, name)) is not None and not _whole(value, 1):
            return f"{name} must be a whole number of at least 1, got {value!r}"
    if config.sequence_length is not None and not _whole(config.sequence_length, 2):
        return f"sequence_length must be a whole number of at least 2, got {config.sequence_length!r}"
    for name in ("seed", "warmup"):
        if (value := getattr(config, name)) is not None and not _whole(value, 0):
            return f"{name} must be a whole number of at least 0, got {value!r}"
    return _problem_of_numbers(config) or _problem_of_choices(config)


def _problem_of_numbers(config: TrainConfig) -> str | None:
    for name in ("lr", "lr_rest"):
        if (rate := getattr(config, name)) is not None and not (_number(rate) and rate > 0):
            return f"{name} must be a positive number, got {rate!r}"
    if config.clip is not None and not (_number(config.clip) and config.clip > 0):
        return f"clip must be a positive number, or None for no clipping, got {config.clip!r}"
    if not (_number(config.min_lr_ratio) and 0 <= config.min_lr_ratio <= 1):
        return f"min_lr_ratio must be a number in [0, 1], got {config.min_lr_ratio!r}"
    if not (_number(config.weight_decay) and config.weight_decay >= 0):
        return f"weight_decay must be a number of at least 0, got {config.weight_decay!r}"
    if config.scale is not None and not (_number(config.scale) and config.scale > 0):
        return f"scale must be a positive number, got {config.scale!r}"
    betas = config.betas or ()
    if config.betas is not None and (len(betas) != 2 or not all(_number(beta) and 0 <= beta < 1 for beta in betas)):
        return f"betas must be two numbers in [0, 1), got {config.betas!r}"
    return None


def _problem_of_choices(config: TrainConfig) -> str | None:
    if config.preset is not None and config.model is not None:
        return f"give preset={config.preset!r} or model={config.model!r}, not both"
    if config.model is not None and config.vocab_size is not None:
        return f"vocab_size={config.vocab_size} has no effect on the pretrained {config.model!r}; leave it out"
    if config.precision not in {"auto", "float32", "bfloat16"}:
        return f"precision must be auto, float32 or bfloat16, got {config.precision!r}"
    if isinstance(config.layers, str):
        return f"layers must be a tuple of patterns, got the text {config.layers!r}; write ({config.layers!r},)"
    return _problem_of_options(config.optimizer_options)


def _problem_of_options(options: Any) -> str | None:
    if options is not None and not isinstance(options, dict):
        return f"optimizer_options must be names and values, got {options!r}; write {{'walk_step': 0.05}} for example"
    for name, value in (options or {}).items():
        if not (value is None or isinstance(value, str | bool) or _number(value)):
            return f"optimizer_options: {name} must be a number, a text, True, False or None, got {value!r}"
    return None


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
