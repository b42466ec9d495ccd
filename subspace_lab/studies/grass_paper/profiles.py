"""How large the experiments are: a smoke test, a two-core machine, the published setting."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from subspace_lab._checks import whole_number
from subspace_lab._text import unknown
from subspace_lab.experiments.protocol import RATES, Budget
from subspace_lab.experiments.variants import common_config
from subspace_lab.training import TrainConfig, preset
from subspace_lab.training.sharding import check_shares

NULL = "frozen+AO+RS"  # a basis that is never moved, with transported moments and recovery scaling
_METHODS = (  # listed, so that another optimizer does not change the profiles
    "adamw", "grasswalk", "grassjump", "subtrack", "galore", "golore", "fira", "ldadam", "apollo", "frugal",
    "onlinesubspacedescent", "rso", "badam",
)  # fmt: skip


@dataclass(frozen=True)
class Larger:
    """A second, larger size.

    Attributes:
        methods: Those that are trained in it.
        settings: In which its trainings differ from those of the first size.
        tuning: In which the trainings of the search differ from them.
        seeds: Evaluation seeds.
    """

    methods: tuple[str, ...]
    settings: dict[str, Any]
    tuning: dict[str, Any]
    seeds: int


@dataclass(frozen=True)
class Profile:
    """The scale of all experiments.

    Attributes:
        name: A key of `PROFILES`, with ``-longer`` at its end for the longer variant.
        config: What all trainings have in common.
        lrs: The ladder of both rates, that of the matrices and that of the rest.
        budget: Trainings of a search.
        seeds: Evaluation seeds, from 0 on.
        ranks: Around the usual rank, for the sensitivity to it.
        intervals: Steps between refreshes.
        walk_steps: Radians.
        zetas: Largest growths of the recovered part per step.
        scales: Factors on the step of the matrices, whose rate is tuned at each of them.
        shares: m/r of the energy figure.
        captures: Captured steps of a captured run.
        cell_s: Expected seconds of a training on one thread, for the estimate before one was measured.
        rules: For the basis, in the ablation; the first, frozen, is the null.
        methods: Of Tables 1 and 2.
        larger: The second, larger size; None where the profile has one size.
        processes: Of one training; more than one are started by torchrun.
    """

    name: str
    config: TrainConfig
    lrs: tuple[float, ...]
    budget: Budget
    seeds: int
    ranks: tuple[int, ...]
    intervals: tuple[int, ...]
    walk_steps: tuple[float, ...]
    zetas: tuple[float, ...]
    scales: tuple[float, ...]
    shares: tuple[int, ...]
    captures: int
    cell_s: float
    rules: tuple[str, ...] = ("frozen", "svd", "track", "walk", "jump")
    methods: tuple[str, ...] = _METHODS
    larger: Larger | None = None
    processes: int = 1

    @property
    def settings(self) -> dict[str, Any]:
        """JSON-ready values that decide what is computed; the expected duration is not among them."""
        values = dataclasses.asdict(dataclasses.replace(self, config=None))  # type: ignore[arg-type]
        del values["cell_s"]
        return {**values, "config": self.config.to_dict()}

    @property
    def base(self) -> TrainConfig:
        """What all trainings have in common, resolved."""
        return common_config(self.config)

    @property
    def rank(self) -> int:
        """The rank that the methods use, at which energies and derivatives are related to their losses."""
        assert self.config.preset is not None
        return self.config.rank or preset(self.config.preset).usual_rank

    @property
    def longer(self) -> Profile:
        """The same with four times the steps and two more seeds."""
        assert self.config.steps is not None
        config = dataclasses.replace(self.config, steps=4 * self.config.steps)
        name = f"{self.name}-longer"
        return dataclasses.replace(self, name=name, config=config, seeds=self.seeds + 2, cell_s=4 * self.cell_s)


def _small(**changes: Any) -> TrainConfig:
    shared: dict[str, Any] = {"preset": "llama-2m", "data": "stdlib", "precision": "float32", "checkpoint_every": 100}
    return TrainConfig(**{**shared, **changes})


PROFILES: dict[str, Profile] = {
    "smoke": Profile(
        "smoke",
        _small(vocab_size=300, steps=4, batch_size=2, sequence_length=16, rank=16, update_interval=2, eval_every=2,
               eval_batches=1),
        lrs=(1e-2, 3e-2), budget=Budget(0, 0, 0), seeds=2, ranks=(8,), intervals=(3,), walk_steps=(0.5,), zetas=(1.5,),
        scales=(0.25,),
        shares=(4, 8), captures=2, cell_s=0.6, rules=("frozen", "walk", "jump"),
        methods=("adamw", "grasswalk", "grassjump", "galore", "subtrack"),
    ),
    "cpu": Profile(
        "cpu",
        _small(vocab_size=1024, steps=300, batch_size=8, sequence_length=64, rank=16, update_interval=20,
               eval_every=150, eval_batches=16),
        lrs=RATES, budget=Budget(), seeds=5, ranks=(4, 8, 32, 64), intervals=(5, 10, 50, 150),
        walk_steps=(0.01, 0.03, 0.3, 1.0), zetas=(1.001, 1.003, 1.03, 1.1), scales=(0.25,),
        shares=(2, 4, 8, 16, 32, 64), captures=20, cell_s=20.0,
        larger=Larger(
            ("adamw", "grasswalk", "grassjump", "subtrack", "galore", "fira", "ldadam", "apollo", NULL),
            {"preset": "llama-7m", "vocab_size": 4096, "rank": 32, "steps": 1000, "eval_every": 250},
            {"steps": 300}, seeds=3,
        ),
    ),
    "paper": Profile(
        "paper",
        TrainConfig(preset="llama-1b", data="hf:allenai/c4:en", precision="bfloat16", eval_every=1000,
                    checkpoint_every=500, eval_batches=64),
        lrs=RATES, budget=Budget(), seeds=5, ranks=(128, 256, 1024), intervals=(50, 100, 500),
        walk_steps=(0.01, 0.03, 0.3), zetas=(1.001, 1.1), scales=(0.25,), shares=(4, 8, 16, 32, 64), captures=20,
        cell_s=86_400.0, processes=8,
        larger=Larger(
            (*_METHODS, NULL),
            {"preset": "llama-7b", "batch_size": 8, "accumulation": 2, "rank": 1024, "update_interval": 500},
            {"steps": 1000}, seeds=3,
        ),
    ),
}  # fmt: skip


def checked_processes(profile: Profile, processes: int | None) -> int:
    """How many processes share a training; by default as the profile says.

    Args:
        profile: The scale.
        processes: What was asked for.

    Returns:
        The number; ValueError if it is none, or batches of one of the sizes cannot be shared by so many.
    """
    number = profile.processes if processes is None else whole_number("processes", processes)
    check_shares(profile.base, number)
    if profile.larger is not None:
        check_shares(dataclasses.replace(profile.base, **profile.larger.settings), number)
    return number


def profile_named(name: str, *, longer: bool = False) -> Profile:
    """A profile by its name, or its longer variant; ValueError where there is no such profile."""
    if name not in PROFILES:
        raise ValueError(unknown("profile", name, PROFILES))
    if longer and name == "paper":
        raise ValueError("longer has no use with profile paper, which has the published length; leave it out")
    return PROFILES[name].longer if longer else PROFILES[name]
