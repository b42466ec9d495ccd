"""The settings of a training run: a frozen dataclass, built by Python, kept as JSON in the run's manifest."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from subspace_lab._checks import check_choice, is_decay_rates, is_number, plain_number, positive_number, whole_number
from subspace_lab._text import named_settings, unknown
from subspace_lab.training.presets import FINE_TUNING, Recipe, preset
from subspace_lab.training.tasks.names import DEFAULT_TASK, OWN_DATA, TASKS, check_task, columns_of

Precision = Literal["auto", "float32", "bfloat16"]
Adapter = Literal["lora"]
Sharding = Literal["ddp", "fsdp", "hsdp"]
DEFAULT_PRESET = "llama-7m"
_ADAPTER_RANK = 8
_COUNTS = ("steps", "batch_size", "accumulation", "vocab_size", "adapter_rank", "rank", "update_interval", "threads",
           "every", "checkpoint_every", "keep_checkpoints", "eval_every", "eval_batches")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What is trained, on what, how, and what of it is captured.

    A field that is None, or ``"auto"``, is open: `resolved` and the start of the training fill it in, and resuming
    takes the value that the run began with. ``clip``, ``every`` and ``eval_every`` are the exceptions, their None means
    off.

    Attributes:
        preset: Name of a LLaMA size, initialized from the seed; ``llama-7m`` when neither this nor ``model`` is given.
        model: A pretrained causal language model instead: ``hf:<name>``, a local directory, a ``.gguf`` file, or
            ``smollm2``.
        adapter: ``lora``: the weights stay as they are, and low-rank adapters of linear layers are trained.
        adapter_rank: Of the adapters, 8 by default; their update is scaled by alpha / rank = 2.
        adapter_targets: Which linear layers get one: their names (``q_proj``) or globs on their paths; by default all
            of attention and MLP.
        task: What the model learns: ``language`` (the next token of text, the default), or a labelled task:
            ``sentiment``, ``questions``, ``arithmetic``, ``instructions``, ``classification`` (GLUE and SuperGLUE) or
            ``file`` (prompts and responses of your own), whose loss is that of the responses alone.
        data: ``stdlib`` (the sources of Python's standard library), a path or glob of text, jsonl or parquet files,
            or ``hf:<dataset>`` (``hf:<dataset>:<subset>``), streamed. Of a labelled task: a csv, tsv, jsonl, json or
            parquet file, a directory of these (``train.csv``, ``validation.csv``), or ``hf:<dataset>``; by default the
            rows that come with the task.
        columns: Which columns of a labelled task's data are read: ``prompt=q,response=a``; by default those of the
            usual names.
        tokenizer: A ``tokenizer.json``, ``hf:<name>`` or a local directory; by default the pretrained model's own, for
            a preset a byte-level BPE trained on the data.
        vocab_size: Overrides the preset's.
        steps: Optimizer steps.
        batch_size: Sequences per micro-batch, over all processes.
        accumulation: Micro-batches per optimizer step.
        sequence_length: Tokens per sequence, at least two; of a labelled task the most that a row may have.
        optimizer: ``adamw``, or a method of `subspace_lab.optim` by its name, whatever its case and hyphens; its
            settings may follow after colons: ``grasswalk:rank=16:walk_step=0.05``, ``adamw:beta2=0.95``.
        rank: Rank of the matrices of attention and MLP; by default the preset's published one, else a quarter of its
            width. Embeddings, head and norms are full-rank in any case.
        update_interval: Steps between two refreshes of the subspace (of BAdam, steps per block); by default the
            method's own where its paper has one, else the preset's published one, else 200.
        scale: Factor on the step of a method with a rank; the method's own by default.
        optimizer_options: Further settings of the optimizer, plain values by name: ``{"walk_step": 0.05}``; on the
            command line ``--optimizer-options.walk-step 0.05``. With ``beta2`` beta1 stays the optimizer's own.
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
        sharding: Of several processes, which torchrun begins: ``ddp``, the default, keeps the whole model in each;
            ``fsdp`` shards it block by block over all of them, ``hsdp`` over those of a node, with a copy on each node.
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
    adapter: Adapter | None = None
    adapter_rank: int | None = None
    adapter_targets: tuple[str, ...] | None = None
    task: str = DEFAULT_TASK
    data: str | None = None
    columns: str | dict[str, str] | None = None
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
    sharding: Sharding | None = None
    every: int | None = 10
    keep: str = "gram"
    layers: tuple[str, ...] | None = None
    checkpoint_every: int = 100
    keep_checkpoints: int = 2
    eval_every: int | None = 50
    eval_batches: int = 4

    def __post_init__(self) -> None:
        self._take_settings_of_optimizer()
        for name in ("betas", "layers", "adapter_targets"):  # JSON knows lists only
            if isinstance(value := getattr(self, name), list):
                object.__setattr__(self, name, tuple(value))
        if isinstance(options := self.optimizer_options, Mapping):
            object.__setattr__(self, "optimizer_options", {str(k).replace("-", "_"): v for k, v in options.items()})
        if self.columns is not None:
            object.__setattr__(self, "columns", columns_of(self.columns))
        _check(self)

    def _take_settings_of_optimizer(self) -> None:
        """Settings after the optimizer's name become fields, or options."""
        if not isinstance(self.optimizer, str) or ":" not in self.optimizer:
            return
        name, settings = named_settings(self.optimizer)
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        given = self.optimizer_options if isinstance(self.optimizer_options, Mapping) else {}
        for key in settings:
            is_set = key in defaults and getattr(self, key) != defaults[key]
            if key == "optimizer" or key in given or is_set:
                raise ValueError(f"optimizer={self.optimizer!r} says {key}, which is given beside it; leave one out")
        options = {key: value for key, value in settings.items() if key not in defaults}
        for key, value in ({**settings, "optimizer": name}).items():
            if key in defaults:
                object.__setattr__(self, key, value)
        if options:
            object.__setattr__(self, "optimizer_options", {**given, **options})

    def resolved(self) -> Self:
        """The configuration with the open fields that follow from the preset filled in.

        Returns:
            A configuration whose ``data``, ``lr``, ``batch_size``, ``accumulation``, ``sequence_length``,
            ``steps``, ``warmup`` and (for a preset) ``vocab_size`` are set; it resolves to itself.

        Raises:
            ValueError: If the warm-up is longer than the training, or the task has no data of its own and none are
                given.

        >>> TrainConfig(preset="llama-60m").resolved().warmup
        1000
        """
        name = self.preset if self.preset or self.model else DEFAULT_PRESET
        size = preset(name) if name else None
        recipe = size.recipe if size else FINE_TUNING
        values = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(Recipe)}
        task = TASKS[self.task]
        values |= {"data": task.data, "sequence_length": task.sequence_length or recipe.sequence_length}
        if size:
            values |= {"preset": name, "vocab_size": size.vocab_size}
        if self.adapter is not None:
            values["adapter_rank"] = _ADAPTER_RANK
        full = self._filled(values)
        if full.data is None:
            raise ValueError(f"task {self.task!r} has no rows of its own; give data=, a file of rows or hf:<dataset>")
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
        names = [name for name in {**values, **now} if values.get(name) != now.get(name)]
        differences = [f"{name} {values.get(name)!r} -> {now.get(name)!r}" for name in names]
        if differences:
            raise ValueError("; ".join(differences))
        return full

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values by field; those that came with a later release are there where they are set.

        Returns:
            Values that a configuration of the release before is written, compared and hashed by, too.
        """
        values = {name: value for name, value in dataclasses.asdict(self).items() if _LATER.get(name, ...) != value}
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
        is_open = {name: value for name, value in values.items() if self._leaves_open(name)}
        return dataclasses.replace(self, **is_open)

    def _leaves_open(self, name: str) -> bool:
        return getattr(self, name) in ((DEFAULT_TASK,) if name == "task" else (None, "auto"))

    @property
    def tokens(self) -> int:
        """Tokens of the whole training; its sizes must be resolved."""
        return math.prod(getattr(self, name) for name in ("steps", "batch_size", "accumulation", "sequence_length"))


# Settings of later releases, with the values that change nothing.
_LATER = {"task": DEFAULT_TASK, "columns": None, "adapter": None, "adapter_rank": None, "adapter_targets": None,
          "sharding": None}  # fmt: skip
_OFF = ("clip", "every", "eval_every")  # None is a value of these


def _check(config: TrainConfig) -> None:
    """Refuse impossible values; numbers of numpy become Python's."""
    for names, least in ((_COUNTS, 1), (("sequence_length",), 2), (("seed", "warmup"), 0)):
        for name in names:
            if (value := getattr(config, name)) is not None:
                object.__setattr__(config, name, whole_number(name, value, least))
    for name in ("lr", "lr_rest", "clip", "scale"):
        if (value := getattr(config, name)) is not None:
            otherwise = ", or None for no clipping" if name == "clip" else ""
            object.__setattr__(config, name, positive_number(name, value, otherwise=otherwise))
    _check_numbers(config)
    _check_choices(config)
    _check_options(config.optimizer_options)


def _check_numbers(config: TrainConfig) -> None:
    if not (is_number(config.min_lr_ratio) and 0 <= config.min_lr_ratio <= 1):
        raise ValueError(f"min_lr_ratio must be a number in [0, 1], got {config.min_lr_ratio!r}")
    if not (is_number(config.weight_decay) and config.weight_decay >= 0):
        raise ValueError(f"weight_decay must be a number of at least 0, got {config.weight_decay!r}")
    if config.betas is not None and not is_decay_rates(config.betas):
        raise ValueError(f"betas must be two numbers in [0, 1), got {config.betas!r}")
    for name in ("min_lr_ratio", "weight_decay"):
        object.__setattr__(config, name, plain_number(getattr(config, name)))
    if config.betas is not None:
        object.__setattr__(config, "betas", tuple(map(plain_number, config.betas)))


def _check_choices(config: TrainConfig) -> None:
    if config.preset is not None and config.model is not None:
        raise ValueError(f"give preset={config.preset!r} or model={config.model!r}, not both")
    if config.model is not None and config.vocab_size is not None:
        raise ValueError(
            f"vocab_size={config.vocab_size} has no effect on the pretrained {config.model!r}; leave it out"
        )
    check_choice("precision", config.precision, get_args(Precision))
    if config.sharding is not None:
        check_choice("sharding", config.sharding, get_args(Sharding))
    _check_adapter(config)
    for name in ("layers", "adapter_targets"):
        if isinstance(patterns := getattr(config, name), str):
            raise ValueError(f"{name} must be a tuple of patterns, got the text {patterns!r}; write ({patterns!r},)")
    check_task(config.task, config.columns)
    data = config.data or TASKS[config.task].data
    if config.columns and data in OWN_DATA:
        raise ValueError(f"columns has no effect on data={data!r}, which comes with the task; leave it out")
    if config.data is not None and not isinstance(config.data, str):
        raise ValueError(f"data must be a text, a path for example, got {config.data!r}")


def _check_adapter(config: TrainConfig) -> None:
    if config.adapter is not None:
        check_choice("adapter", config.adapter, get_args(Adapter))
        if config.adapter_targets is not None and not config.adapter_targets:
            raise ValueError("adapter_targets is empty; leave it out for all linear layers of attention and MLP")
        return
    for name in ("adapter_rank", "adapter_targets"):
        if (value := getattr(config, name)) is not None:
            raise ValueError(f"{name}={value!r} has no effect without adapter; add adapter='lora'")


def _check_options(options: Any) -> None:
    if options is not None and not isinstance(options, dict):
        raise ValueError(
            f"optimizer_options must be names and values, got {options!r}; write {{'walk_step': 0.05}} for example"
        )
    options = {} if options is None else options
    for name, value in options.items():
        if not (value is None or isinstance(value, str | bool) or is_number(value)):
            raise ValueError(f"optimizer_options: {name} must be a number, a text, True, False or None, got {value!r}")
        options[name] = plain_number(value) if is_number(value) else value
