"""The one enumeration of a study: the cells of its grid, and the jobs that they need, each once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from subspace_lab.experiments.recipe import content_of
from subspace_lab.experiments.trial import Trial
from subspace_lab.studies.safety.config import GridConfig, RegimeConfig, StudyConfig
from subspace_lab.studies.safety.content import exercise_of, pools_of
from subspace_lab.studies.safety.kinds import JUDGES, POLICIES, TASKS, THREATS, HasBase, Policy
from subspace_lab.studies.safety.stages import NONE, Chain, Defense, chain
from subspace_lab.studies.safety.support import Conditions, unsupported
from subspace_lab.training import TrainConfig
from subspace_lab.training.optimizers import method_key, settle_optimizer

_HERE = "subspace_lab.studies.safety.recipes"
_LONGEST = 160  # characters of a label: file names have at most 255
_MODEL = "the parent"  # stands for a directory that is known when a job runs


@dataclass(frozen=True)
class Cell:
    """A place of the grid: a model and what is asked of it.

    Attributes:
        factors: stage, policy, task, threat, share, draw, regime, lr, defense and seed.
        reason: Why it is unsupported; empty where it is trained.
        model: The job whose model is evaluated; None for an unsupported one.
        evaluation: The job that evaluates it.
    """

    factors: Mapping[str, Any]
    reason: str = ""
    model: Trial | None = None
    evaluation: Trial | None = None


@dataclass(frozen=True)
class Jobs:
    """A study's work.

    Attributes:
        cells: In the order of the tables.
        trials: Each job once, parents before their children.
        judges: Canonical texts, of those that the policy allows.
        refused: Of the other judges, why.
    """

    cells: tuple[Cell, ...]
    trials: tuple[Trial, ...]
    judges: tuple[str, ...]
    refused: Mapping[str, str]


def jobs_of(config: StudyConfig) -> Jobs:
    """Enumerate a study; its plug-ins are imported already and its precision is settled.

    Args:
        config: The study.

    Returns:
        Cells and jobs.

    Raises:
        ValueError: If a name or a setting is not known, or the study lacks a base model; one line.
    """
    return _Enumeration(config).jobs()


class _Enumeration:
    def __init__(self, config: StudyConfig) -> None:
        self._config = config
        self._policy: Policy = POLICIES.parse(config.policy)
        self._text = POLICIES.text(self._policy)
        self._trials: dict[str, Trial] = {}
        judges = [JUDGES.parse(text) for text in config.judges]
        self._refused = {
            JUDGES.text(one): f"the judge {JUDGES.text(one)} needs the true answers, which the policy does not have"
            for one in judges
            if one.needs_answers and not self._policy.has_answers
        }
        self._judges = tuple(text for one in judges if (text := JUDGES.text(one)) not in self._refused)
        if not self._judges:
            raise ValueError(f"{next(iter(self._refused.values()))}; choose another judge")
        if config.base is None and config.aligned is None and not isinstance(self._policy, HasBase):
            raise ValueError(f"the policy {self._text!r} has no model of its own; give base=, smollm2 for example")
        self._form = self._policy.form
        self._has_base = config.base is not None or (config.aligned is None and isinstance(self._policy, HasBase))

    def jobs(self) -> Jobs:
        cells = list({_key(cell): cell for cell in (*self._models(), *self._tuned())}.values())
        return Jobs(tuple(cells), tuple(self._trials.values()), self._judges, self._refused)

    def _models(self) -> Iterator[Cell]:
        """The base and the aligned models that tunings begin from."""
        aligned = dict.fromkeys(
            chain(text).of("align") for grid in self._config.grids for text in map(_canonical, grid.defenses)
        )
        for seed in range(self._config.seeds):
            for task in dict.fromkeys(task for grid in self._config.grids for task in grid.tasks):
                if (base := self._base(seed)) is not None:
                    yield self._cell("base", base, seed, task)
                for defenses in aligned:
                    if not (reason := self._unsupported(defenses, None, task)):
                        yield self._cell("aligned", self._align(seed, defenses), seed, task, defense=defenses.text)
                    else:
                        yield Cell(self._factors("aligned", seed, task, defense=defenses.text), reason)

    def _tuned(self) -> Iterator[Cell]:
        for grid in self._config.grids:
            for seed in range(self._config.seeds):
                for draw in range(self._config.draws):
                    yield from self._of_grid(grid, seed, draw)

    def _of_grid(self, grid: GridConfig, seed: int, draw: int) -> Iterator[Cell]:
        chains = [chain(text) for text in dict.fromkeys(map(_canonical, grid.defenses))]
        for task in grid.tasks:
            for threat in grid.threats:
                for regime in map(RegimeConfig.parse, grid.regimes):
                    for lr in regime.lrs:
                        for defenses in chains:
                            yield self._one(task, threat, regime, lr, defenses, seed, draw)

    def _one(
        self, task: str, threat: str, regime: RegimeConfig, lr: float, defenses: Chain, seed: int, draw: int
    ) -> Cell:
        repairs = defenses.of("repair")
        stage = "repaired" if repairs.defenses else "tuned"
        attack = THREATS.parse(threat)
        more: dict[str, Any] = {
            "threat": THREATS.text(attack), "share": float(attack.share), "draw": draw, "regime": regime.text,
            "lr": lr, "defense": defenses.text,
        }  # fmt: skip
        if reason := self._unsupported(defenses, regime, task):
            return Cell(self._factors(stage, seed, task, **more), reason)
        train = self._training(regime.training(), seed, lr=lr, steps=self._config.steps,
                               batch_size=self._config.batch_size, accumulation=self._config.accumulation)  # fmt: skip
        aligned = self._align(seed, defenses.of("align"))
        base = self._base(seed)
        about: dict[str, Any] = {
            "policy": self._text, "seed": seed, "draw": draw, "task": TASKS.text(TASKS.parse(task)),
            "threat": more["threat"], "rows": self._config.rows, "train": train,
        }  # fmt: skip
        in_training = defenses.of("train")
        of_base = [] if base is None else [base]
        words = [about["task"], about["threat"], regime.text, f"lr{lr:g}"]
        tuned = self._trial(
            "TUNE",
            {**about, "chain": in_training.text, "probe_every": self._config.probe_every,
             "freeze_embeddings": self._config.freeze_embeddings},
            [aligned, *(of_base if "base" in in_training.needs else [])],
            ["tuned", *words, defenses.of("align", "train").text, f"seed{seed}", *([f"draw{draw}"] if draw else [])],
        )  # fmt: skip
        model = tuned
        if repairs.defenses:
            label = ["repaired", *words, defenses.text, f"seed{seed}", *([f"draw{draw}"] if draw else [])]
            shared = {name: about[name] for name in ("policy", "seed", "train")}
            parents = [tuned, aligned, *(of_base if "base" in repairs.needs else [])]
            model = self._trial("REPAIR", {**shared, "chain": repairs.text}, parents, label)
        return self._cell(stage, model, seed, task, **more)

    def _unsupported(self, defenses: Chain, regime: RegimeConfig | None, task: str) -> str:
        """Why a cell cannot be: empty for no reason."""
        conditions = Conditions(
            optimizer="adamw" if regime is None else method_key(regime.optimizer),
            is_lora=regime is not None and regime.is_lora,
            accumulation=self._config.accumulation,
            lacks=() if self._has_base else ("base",),
        )
        if reason := unsupported(defenses, conditions, self._policy, TASKS.parse(task)):
            return reason
        if self._config.aligned is not None:
            for one in defenses.of("align").defenses:
                if type(one).gradient is not Defense.gradient or type(one).prepare is not Defense.prepare:
                    return f"{Chain((one,)).text} acts while a model is aligned, and aligned= is aligned already"
        return ""

    def _base(self, seed: int) -> Trial | None:
        if not self._has_base:
            return None
        pools = pools_of(self._text, seed)
        config = self._config
        train = self._training({}, seed, lr=config.base_lr, steps=config.base_steps, batch_size=config.base_batch_size)
        about = {"policy": self._text, "seed": seed, "model": config.base, "train": train,
                 "trains": bool(pools.base) and config.aligned is None}  # fmt: skip
        return self._trial("BASE", about, [], ["base", f"seed{seed}"])

    def _align(self, seed: int, defenses: Chain) -> Trial:
        config = self._config
        base = self._base(seed)
        train = self._training(
            {}, seed, lr=config.align_lr, steps=config.align_steps, batch_size=config.align_batch_size
        )
        about = {"policy": self._text, "seed": seed, "model": config.aligned, "train": train, "chain": defenses.text,
                 "trains": config.aligned is None, "freeze_embeddings": config.freeze_embeddings}  # fmt: skip
        name = [] if defenses.text == NONE else [defenses.text]
        return self._trial("ALIGN", about, [] if base is None else [base], ["aligned", *name, f"seed{seed}"])

    def _training(self, regime: Mapping[str, Any], seed: int, **settings: Any) -> dict[str, Any]:
        """The settings of a training, all filled in and checked, but where its model lies."""
        settled = settle_optimizer(
            TrainConfig(
                model=_MODEL, seed=seed, precision=self._config.precision, threads=1, every=None, eval_every=None,
                sequence_length=self._config.sequence_length, **regime, **settings,
            ).resolved()
        )  # fmt: skip
        return dataclasses.replace(settled, model=None).to_dict()

    def _cell(self, stage: str, model: Trial, seed: int, task: str, **more: Any) -> Cell:
        threat = more.get("threat")
        about: dict[str, Any] = {
            "policy": self._text, "seed": seed, "task": TASKS.text(TASKS.parse(task)), "threat": threat,
            "judges": list(self._judges), "evaluation": dataclasses.asdict(self._config.evaluation),
        }  # fmt: skip
        label = [f"evaluated-{model.label}", *([about["task"]] if threat is None else [])]
        evaluation = self._trial("EVALUATE", about, [model], label)
        return Cell(self._factors(stage, seed, task, **more), "", model, evaluation)

    def _factors(self, stage: str, seed: int, task: str, **more: Any) -> dict[str, Any]:
        exercise_of(task, self._form)
        return {
            "stage": stage, "policy": self._text, "task": TASKS.text(TASKS.parse(task)), "threat": "",
            "share": None, "draw": None, "regime": "", "lr": None, "defense": NONE, **more, "seed": seed,
        }  # fmt: skip

    def _trial(self, name: str, config: Mapping[str, Any], parents: list[Trial], label: list[str]) -> Trial:
        recipe = f"{_HERE}:{name}"
        trial = Trial({}, recipe, config, content_of(recipe, config), tuple(one.hash for one in parents),
                      label="_".join(label)[:_LONGEST])  # fmt: skip
        return self._trials.setdefault(trial.hash, trial)


def _canonical(text: str) -> str:
    return chain(text).text


def _key(cell: Cell) -> tuple[Any, ...]:
    return tuple(cell.factors.values())
