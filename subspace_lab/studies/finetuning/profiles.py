"""How large the study is: a smoke test on a tiny random model, SmolLM2-135M on two cores, the same on a GPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from subspace_lab._text import unknown
from subspace_lab.experiments.variants import common_config
from subspace_lab.training import TrainConfig
from subspace_lab.training.tasks.base import Metric
from subspace_lab.training.tasks.exercise import ACCURACY, EXACT

SCORES: dict[str, Metric] = {"sentiment": ACCURACY, "questions": EXACT, "arithmetic": EXACT}  # what a task is judged by
_RATES = {  # three each, a factor of three apart; an update of rank r is smaller than Adam's by about sqrt(r / m)
    "adamw": (3e-5, 1e-4, 3e-4), "galore": (1e-3, 3e-3, 1e-2), "badam": (1e-4, 3e-4, 1e-3),
    "ldadam": (3e-4, 1e-3, 3e-3), "subtrack": (3e-4, 1e-3, 3e-3), "grasswalk": (3e-4, 1e-3, 3e-3),
    "grassjump": (3e-4, 1e-3, 3e-3), "lora": (3e-4, 1e-3, 3e-3),
}  # fmt: skip


@dataclass(frozen=True)
class Profile:
    """The scale of the study.

    Attributes:
        name: A key of `PROFILES`.
        config: What all trainings have in common; its precision may be ``auto``, which `settled` measures.
        tasks: Keys of `SCORES`.
        methods: Settings by name.
        rates: Learning rates of the matrices that are tried for each method, ascending; the middle one first.
        tuning_steps: Steps of a training that tunes.
        seeds: Evaluation seeds, from 0 on.
        text: Data of the captured runs on text.
        scratch: Settings in which a training of a preset from scratch differs, whose gradients are measured, too.
        scratch_lr: Its learning rate.
        captured_seeds: Captured runs of each kind, seeds from 0 on.
        captures: Captured steps of a captured run.
        shares: m/r at which energies are measured.
        step_s: Expected seconds of a step by precision, on one thread or a GPU, for the estimate.
        around_s: Expected seconds of a training beside its steps: loading and evaluations.
    """

    name: str
    config: TrainConfig
    tasks: tuple[str, ...]
    methods: Mapping[str, Mapping[str, Any]]
    rates: Mapping[str, tuple[float, ...]]
    tuning_steps: int
    seeds: int
    scratch: Mapping[str, Any]
    scratch_lr: float
    captured_seeds: int
    captures: int
    step_s: Mapping[str, float]
    around_s: float
    shares: tuple[int, ...] = (4, 16, 64)  # a core of a quarter holds all of a task's gradient
    text: str = "stdlib"

    @property
    def settings(self) -> dict[str, Any]:
        """JSON-ready values that decide what is computed; the expected duration is not among them."""
        values = dataclasses.asdict(dataclasses.replace(self, config=None))  # type: ignore[arg-type]
        del values["step_s"], values["around_s"]
        return {**values, "config": self.config.to_dict()}

    @property
    def seconds_per_step(self) -> float:
        """Expected seconds of a step in its precision, which is measured."""
        return self.step_s[self.config.precision]

    @property
    def base(self) -> TrainConfig:
        """What all trainings have in common, resolved."""
        return common_config(self.config)


def _methods(rank: int, interval: int, block_steps: int) -> dict[str, dict[str, Any]]:
    """Every method with the settings of the study; LoRA is AdamW on adapters of the same rank."""
    ranked = {"rank": rank, "update_interval": interval}
    return {
        "adamw": {"optimizer": "adamw"},
        "galore": {"optimizer": "galore", **ranked},
        "badam": {"optimizer": "badam", "update_interval": block_steps},
        "ldadam": {"optimizer": "ldadam", "rank": rank},  # moves its basis at every step
        "subtrack": {"optimizer": "subtrack", **ranked},
        "grasswalk": {"optimizer": "grasswalk", **ranked},
        "grassjump": {"optimizer": "grassjump", **ranked},
        "lora": {"optimizer": "adamw", "adapter": "lora", "adapter_rank": rank, "lr_rest": None},
    }


def _some(*names: str, **sizes: int) -> dict[str, dict[str, Any]]:
    return {name: settings for name, settings in _methods(**sizes).items() if name in names}


_CPU = TrainConfig(
    model="smollm2", steps=60, batch_size=4, lr_rest=3e-5, eval_every=60, eval_batches=8, checkpoint_every=60,
    keep_checkpoints=1,
)  # fmt: skip

PROFILES: dict[str, Profile] = {
    "smoke": Profile(
        "smoke",
        TrainConfig(preset="llama-2m", vocab_size=1024, precision="float32", steps=4, batch_size=2, lr_rest=1e-3,
                    eval_every=4, eval_batches=1, checkpoint_every=4, keep_checkpoints=1),
        tasks=("sentiment", "arithmetic"),
        methods=_some("adamw", "galore", "subtrack", "lora", rank=8, interval=2, block_steps=1),
        rates=dict.fromkeys(("adamw", "galore", "subtrack", "lora"), (0.001, 0.003)), tuning_steps=2, seeds=2,
        scratch={"preset": "llama-9m", "lr_rest": None}, scratch_lr=3e-3, captured_seeds=2, captures=4,
        step_s={"float32": 0.1},
        around_s=3,
    ),
    "cpu": Profile(
        "cpu", _CPU, tasks=("sentiment", "questions"), methods=_methods(rank=8, interval=20, block_steps=2),
        rates=_RATES, tuning_steps=30, seeds=3,
        scratch={"model": None, "preset": "llama-7m", "vocab_size": 4096, "lr_rest": None}, scratch_lr=3e-3,
        captured_seeds=3, captures=6, step_s={"float32": 3.2, "bfloat16": 2.4}, around_s=25,
    ),
    "gpu": Profile(
        "gpu",
        dataclasses.replace(_CPU, precision="bfloat16", steps=600, batch_size=16, eval_every=600, eval_batches=32,
                            checkpoint_every=600),
        tasks=("sentiment", "arithmetic"), methods=_methods(rank=8, interval=100, block_steps=20), rates=_RATES,
        tuning_steps=200, seeds=5,
        scratch={"model": None, "preset": "llama-130m", "lr_rest": None}, scratch_lr=1e-3,
        captured_seeds=3, captures=20, step_s={"bfloat16": 0.2}, around_s=60,
    ),
}  # fmt: skip


def profile_named(name: str) -> Profile:
    """A profile by its name; ValueError where there is no such profile."""
    if name not in PROFILES:
        raise ValueError(unknown("profile", name, PROFILES))
    return PROFILES[name]
