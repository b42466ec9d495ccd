"""What a study is to compare, as frozen dataclasses that JSON holds as they are."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self, get_args

from subspace_lab._checks import check_choice, is_number, positive_number, whole_number
from subspace_lab._text import named_settings, plain_value, unknown
from subspace_lab.studies.safety.registry import word_of

Precision = Literal["auto", "float32", "bfloat16"]
LORA = "lora"
_RATE = 1e-3
_COUNTS = (
    "seeds", "draws", "steps", "batch_size", "accumulation", "rows", "sequence_length", "base_steps", "base_batch_size",
    "align_steps", "align_batch_size",
)  # fmt: skip
_RATES = ("base_lr", "align_lr")
_GRID = ("tasks", "threats", "regimes", "defenses")
_AXES = (*_GRID, "judges")


@dataclass(frozen=True, kw_only=True)
class RegimeConfig:
    """How a model is tuned: an optimizer over all weights, or low-rank adapters, at one or more learning rates.

    Attributes:
        name: AdamW or a method of `subspace_lab.optim` by its name, or ``lora``.
        settings: Of the optimizer, in alphabetical order; of ``lora`` its ``rank``, and ``optimizer``.
        lrs: Peak learning rates.
    """

    name: str = "adamw"
    settings: tuple[tuple[str, Any], ...] = ()
    lrs: tuple[float, ...] = (_RATE,)

    @classmethod
    def parse(cls, text: str) -> Self:
        """A regime from its text.

        Args:
            text: ``grasswalk:rank=8:lr=1e-3+3e-3``; without ``lr`` the rate is 0.001.

        Returns:
            The regime; whether the optimizer has such settings is found out when it is resolved.

        Raises:
            ValueError: If a part is not ``name=value``, or a rate is not a positive number or stands in it twice.

        >>> RegimeConfig.parse("GrassWalk:rank=8:lr=1e-3+3e-3")
        RegimeConfig(name='grasswalk', settings=(('rank', 8),), lrs=(0.001, 0.003))
        """
        name, settings = named_settings(text)
        rates = [plain_value(part) for part in str(settings.pop("lr", _RATE)).split("+")]
        for rate in rates:
            if not is_number(rate) or not isinstance(rate, int | float) or rate <= 0:
                raise ValueError(f"the regime {text!r}: lr must be positive numbers with + between, got {rate!r}")
            if rates.count(rate) > 1:
                raise ValueError(f"the regime {text!r} has the rate {rate:g} twice; leave one out")
        key = name.lower().replace("-", "").replace("_", "")
        return cls(name=key, settings=tuple(sorted(settings.items())), lrs=tuple(float(rate) for rate in rates))  # type: ignore[arg-type]

    @property
    def text(self) -> str:
        """The canonical text without the rates: ``grasswalk:rank=8``."""
        return ":".join([self.name, *(f"{name}={word_of(value)}" for name, value in self.settings)])

    @property
    def optimizer(self) -> str:
        """The optimizer, of adapters too."""
        return str(dict(self.settings).get("optimizer", "adamw")) if self.name == LORA else self.name

    @property
    def is_lora(self) -> bool:
        """Whether low-rank adapters are trained and the weights stay as they are."""
        return self.name == LORA

    def training(self) -> dict[str, Any]:
        """The fields of a `TrainConfig` that it sets, but for the learning rate."""
        settings = dict(self.settings)
        if not self.is_lora:
            return {"optimizer": ":".join([self.name, *(f"{name}={value}" for name, value in self.settings)])}
        rank = settings.pop("rank", None)
        more = {name: settings.pop(name) for name in ("optimizer",) if name in settings}
        if settings:
            raise ValueError(unknown("setting of lora", next(iter(settings)), ("rank", "optimizer", "lr")))
        return {"adapter": LORA, "adapter_rank": rank, **more}


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """How a model is asked.

    Attributes:
        task_rows: At most so many held-out rows of the task.
        max_new_tokens: The most that are written in a reply; None for twice the longest right one, at most 128.
        batch_size: Prompts that are asked at once.
    """

    task_rows: int = 100
    max_new_tokens: int | None = None
    batch_size: int = 64

    def __post_init__(self) -> None:
        for name in ("task_rows", "batch_size", "max_new_tokens"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, whole_number(f"evaluation: {name}", value))


@dataclass(frozen=True, kw_only=True)
class GridConfig:
    """A further product in the same study, all else being the same.

    Attributes:
        tasks: As `StudyConfig` has them, and so on.
        threats: What becomes of the user's rows.
        regimes: How a model is tuned.
        defenses: Chains of defenses.
    """

    tasks: tuple[str, ...]
    threats: tuple[str, ...]
    regimes: tuple[str, ...]
    defenses: tuple[str, ...] = ("none",)

    def __post_init__(self) -> None:
        for name in _GRID:
            object.__setattr__(self, name, _texts(name, getattr(self, name), at_least=True))


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """Everything that a study varies and keeps; the grid is the product of tasks, threats, regimes and defenses.

    Attributes:
        policy: The rule that is not to be lost: ``digits``, ``codenames``, ``user:harmful=FILE``.
        tasks: What the user fine-tunes for: ``sentiment``.
        threats: What becomes of the user's rows: ``clean``, ``poison:share=0.05``.
        regimes: How a model is tuned, with the rates: ``grasswalk:rank=8:lr=1e-3+3e-3``, ``lora:rank=8``.
        defenses: ``none``, or chains of defenses: ``lox:k=8+safegrad+resta``.
        further: Further products of these four.
        judges: Who says whether a model refused.
        seeds: How many seeds, from 0 on: of base, alignment, rows and tuning.
        draws: How many draws of the user's rows for each seed.
        steps: Of a tuning.
        batch_size: Rows of a micro-batch of the tuning.
        accumulation: Micro-batches of a step.
        rows: Of the user's fine-tuning set.
        base: A pretrained model (``smollm2``, ``hf:<name>``, a directory); needed where the policy has no model of its
            own.
        aligned: An aligned model instead of the alignment here.
        plugins: Modules (``my_module``, ``path/to/file.py``) of policies, tasks, threats, defenses and judges.
        probe_every: Steps between two looks at user and safety gradients (table ``steps``); None for none.
        sequence_length: The most tokens of a row.
        precision: ``bfloat16`` is autocast over float32 weights; ``auto`` measures which is faster, before anything is
            hashed.
        freeze_embeddings: Whether embeddings and head stay as they are, in the alignment and in tuning.
        base_steps: Steps of the base's training.
        base_batch_size: Rows of its step.
        base_lr: Its peak learning rate.
        align_steps: Steps of the alignment.
        align_batch_size: Rows of its step.
        align_lr: Its peak learning rate.
        evaluation: How a model is asked.

    Raises:
        ValueError: If a value is impossible; one line.
    """

    policy: str = "digits"
    tasks: tuple[str, ...] = ("sentiment",)
    threats: tuple[str, ...] = ("clean", "poison:share=0.3")
    regimes: tuple[str, ...] = ("adamw",)
    defenses: tuple[str, ...] = ("none",)
    further: tuple[GridConfig, ...] = ()
    judges: tuple[str, ...] = ("exact", "prefix")
    seeds: int = 1
    draws: int = 1
    steps: int = 150
    batch_size: int = 16
    accumulation: int = 1
    rows: int = 2400
    base: str | None = None
    aligned: str | None = None
    plugins: tuple[str, ...] = ()
    probe_every: int | None = 10
    sequence_length: int = 512
    precision: Precision = "float32"
    freeze_embeddings: bool = False
    base_steps: int = 600
    base_batch_size: int = 64
    base_lr: float = 4e-3
    align_steps: int = 250
    align_batch_size: int = 32
    align_lr: float = 1e-3
    evaluation: EvalConfig = field(default_factory=EvalConfig)

    def __post_init__(self) -> None:
        for name in (*_AXES, "plugins"):
            object.__setattr__(self, name, _texts(name, getattr(self, name), at_least=name != "plugins"))
        if not isinstance(self.further, list | tuple):
            raise ValueError(f"further must be a list of grids, got {self.further!r}")
        grids = tuple(one if isinstance(one, GridConfig) else _built(GridConfig, one, "setting of a further grid")
                      for one in self.further)  # fmt: skip
        object.__setattr__(self, "further", grids)
        for name in ("policy", "base", "aligned"):
            value = getattr(self, name)
            if not (isinstance(value, str) and value) and (name == "policy" or value is not None):
                raise ValueError(f"{name} must be a text, got {value!r}")
        for name in _COUNTS:
            object.__setattr__(self, name, whole_number(name, getattr(self, name)))
        for name in _RATES:
            object.__setattr__(self, name, positive_number(name, getattr(self, name)))
        if self.probe_every is not None:
            object.__setattr__(self, "probe_every", whole_number("probe_every", self.probe_every))
        check_choice("precision", self.precision, get_args(Precision))
        if not isinstance(self.freeze_embeddings, bool):
            raise ValueError(f"freeze_embeddings must be true or false, got {self.freeze_embeddings!r}")
        if isinstance(self.evaluation, Mapping):
            object.__setattr__(self, "evaluation", _built(EvalConfig, self.evaluation, "setting of evaluation"))
        if not isinstance(self.evaluation, EvalConfig):
            raise ValueError(f"evaluation must be an EvalConfig, got {self.evaluation!r}")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values of all fields; `from_dict` gives an equal configuration back."""
        found: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return found

    @property
    def grids(self) -> tuple[GridConfig, ...]:
        """All products."""
        return (GridConfig(**{name: getattr(self, name) for name in _GRID}), *self.further)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The configuration that `to_dict` wrote.

        Args:
            values: By field; those that are absent take their defaults.

        Returns:
            The configuration.

        Raises:
            ValueError: If a field is not known (names the nearest), or a value is impossible.
        """
        found: Self = _built(cls, values, "setting of a study")
        return found


def _built(cls: Any, values: Mapping[str, Any], what: str) -> Any:
    if not isinstance(values, Mapping):
        raise ValueError(f"a {what.partition(' of ')[2]} is a mapping of settings, got {values!r}")
    known = [one.name for one in dataclasses.fields(cls)]
    for name in values:
        if name not in known:
            raise ValueError(unknown(what, name, known))
    try:
        return cls(**values)
    except TypeError as error:  # something without a default is missing
        raise ValueError(f"a {what} is missing: {error}") from error


def _texts(name: str, value: Any, *, at_least: bool) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, list | tuple):
        raise ValueError(f"{name} must be a list of texts, got {value!r}; write ({value!r},)")
    found = []
    for one in value:
        if not isinstance(one, str) or not one.strip():
            raise ValueError(f"{name} must be texts, got {one!r}")
        if one.strip() in found:
            raise ValueError(f"{name} has {one!r} twice; leave one out")
        found.append(one.strip())
    if at_least and not found:
        raise ValueError(f"{name} is empty; give at least one")
    return tuple(found)
