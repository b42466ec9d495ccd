"""What is trained: every method, tuned on short trainings and evaluated on longer ones, and captured runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from subspace_lab._text import count
from subspace_lab.experiments.grid import Grid, Phase, Wanted
from subspace_lab.experiments.phases import Evaluate
from subspace_lab.experiments.protocol import TUNING_SEEDS
from subspace_lab.experiments.search import Axis, Search, Stage
from subspace_lab.experiments.variants import Trainings, common_config, parse_methods
from subspace_lab.studies.finetuning.profiles import Profile
from subspace_lab.training import TrainConfig

TASK, TEXT, SCRATCH = "task", "text", "scratch"
SOURCES = {  # of captured gradients
    TASK: "pretrained, on the task", TEXT: "pretrained, on text", SCRATCH: "from scratch, on text",
}  # fmt: skip
CAPTURED = "adamw"  # the method of captured runs


def config_of(profile: Profile, task: str) -> TrainConfig:
    """What the trainings of a task have in common."""
    return common_config(dataclasses.replace(profile.config, task=task))


def sources_of(profile: Profile) -> dict[str, TrainConfig]:
    """What the captured runs of each source have in common."""
    text = dataclasses.replace(profile.config, data=profile.text)
    return {
        TASK: config_of(profile, profile.tasks[0]),
        TEXT: common_config(text),
        SCRATCH: common_config(dataclasses.replace(text, **profile.scratch)),
    }


def score_phases(profile: Profile, data_hash: str) -> tuple[Phase, ...]:
    """For each task a search of each method's rate, and evaluation at the best one on other seeds.

    The middle rate is tried first, then its neighbours; what is compared is the held-out loss.

    Args:
        profile: The scale.
        data_hash: Of all data.

    Returns:
        Two phases per task.
    """
    found: list[Phase] = []
    methods = parse_methods(profile.methods)
    starts = {name: {"lr": _middle(profile.rates[name])} for name in methods}
    stages = {name: [Stage((Axis("lr", rates),), len(rates) - 1)] for name, rates in profile.rates.items()}
    short = {"steps": profile.tuning_steps, "eval_every": profile.tuning_steps}
    for task in profile.tasks:
        base, factors = config_of(profile, task), {"task": task, "source": ""}
        tune = Trainings(base, methods, data_hash, more=short, factors=factors, prefix=f"{task} short ")
        search = Search(starts, stages, TUNING_SEEDS, tune)
        make = Trainings(base, methods, data_hash, factors=factors, prefix=f"{task} ")
        found += [search, Evaluate(search, dict.fromkeys(methods, range(profile.seeds)), make)]
    return tuple(found)


def gradient_phases(profile: Profile, data_hash: str) -> tuple[Phase, ...]:
    """AdamW with captured gradients: the pretrained model on a task and on text, and a preset from scratch on text.

    Args:
        profile: The scale.
        data_hash: Of all data.

    Returns:
        A phase per source; nothing is tuned, the pretrained model has the middle rate.
    """
    methods, found = parse_methods([CAPTURED]), []
    steps = profile.base.steps
    assert steps is not None
    keep = {"every": max(1, steps // profile.captures), "keep": "gram"}
    for source, base in sources_of(profile).items():
        lr = profile.scratch_lr if source == SCRATCH else _middle(profile.rates[CAPTURED])
        factors = {"task": base.task, "source": source}
        make = Trainings(base, methods, data_hash, more=keep, factors=factors, prefix=f"captured {source} ")
        found.append(Grid([CAPTURED], [{"lr": lr}], range(profile.captured_seeds), make))
    return tuple(found)


def budget_lines(wanted: Sequence[Wanted], profile: Profile) -> list[str]:
    """How many trainings of how many steps there are at most, phase by phase, and how long they take.

    Args:
        wanted: From `Study.wanted`.
        profile: Says what a step takes, and what a training takes beside its steps.

    Returns:
        A line per phase, and one for all of them.
    """
    counts: dict[tuple[str, int], int] = {}
    for one in wanted:
        key = (_part(one.trial.factors), int(one.trial.config["steps"]))
        counts[key] = counts.get(key, 0) + 1
    lines = [
        f"{part}: {count(number, 'training')} of {count(steps, 'step')}" for (part, steps), number in counts.items()
    ]
    steps = sum(number * steps for (_, steps), number in counts.items())
    hours = (steps * profile.seconds_per_step + len(wanted) * profile.around_s) / 3600
    return [
        *lines,
        f"in all {count(len(wanted), 'training')}, {count(steps, 'step')}: about {hours:.2g} hours one after the "
        f"other, at {profile.seconds_per_step:g} s a step, and {profile.around_s:g} s a training for loading and "
        "evaluation",
    ]


def _part(factors: Mapping[str, object]) -> str:
    if source := factors["source"]:
        return f"gradients, {SOURCES[str(source)]}"
    return f"{factors['task']}, {'tuning' if factors['phase'] == 'tune' else 'evaluation'}"


def _middle(rates: Sequence[float]) -> float:
    return rates[len(rates) // 2]
