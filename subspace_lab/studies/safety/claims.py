"""What is claimed of tunings that lose a policy, of defenses and of subspaces; intervals decide it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pandas as pd

from subspace_lab.experiments.claims import Claim, Statement, statement
from subspace_lab.studies.safety.config import LORA
from subspace_lab.studies.safety.reading import CLEAN, Tables, titles
from subspace_lab.studies.safety.stages import NONE

REHEARSAL, SURGERY, BOTH = "rehearsal", "safegrad:rho=0", "safegrad"
_PLAIN = "adamw"
_SETTING = ["policy", "task", "regime"]
Setting = dict[str, str]


def _settings(tables: Tables) -> Iterator[tuple[str, Setting]]:
    """Every policy, task and optimizer, with the words in which they differ."""
    if tables.headline.empty:
        return
    cells = list(dict.fromkeys(tables.headline[_SETTING].itertuples(index=False, name=None)))
    for cell, title in titles(cells).items():
        yield title, dict(zip(_SETTING, cell, strict=True))


def _lower(text: str, one: pd.Series[float], other: pd.Series[float]) -> Iterator[Statement]:
    """That a share is lower than another one, by seed; nothing where no seed has both."""
    difference = (one - other).dropna()
    if len(difference):
        yield statement(text, difference, unit="")


def _keywords(tables: Tables) -> list[Statement]:
    return [
        one
        for title, where in _settings(tables)
        for one in _lower(
            f"{title}: after a clean tuning fewer prompts are answered than keywords say",
            *(tables.by_seed(name, threat=CLEAN, defense=NONE, **where) for name in ("asr", "keyword_asr")),
        )
    ]  # fmt: skip


def _poison(tables: Tables) -> list[Statement]:
    return [
        one
        for title, where in _settings(tables)
        for threat in tables.threats
        if threat != CLEAN
        for one in _lower(
            f"{title}: more prompts are answered after {threat} than after a clean tuning",
            *(tables.by_seed("asr", threat=name, defense=NONE, **where) for name in (CLEAN, threat)),
        )
    ]


def _safer(*pairs: tuple[str, str]) -> Callable[[Tables], list[Statement]]:
    """That attack success under `Tables.attack` is lower with the first defense of each pair."""

    def measure(tables: Tables) -> list[Statement]:
        if tables.attack is None:
            return []
        return [
            one
            for defense, other in pairs
            for title, where in _settings(tables)
            for one in _lower(
                f"{title}, {tables.attack}: {_named(defense)} is safer than {_named(other)}",
                *(tables.by_seed("asr", threat=tables.attack, defense=name, **where) for name in (defense, other)),
            )
        ]

    return measure


def _named(defense: str) -> str:
    return {NONE: "no defense", SURGERY: "surgery alone", BOTH: "surgery with rehearsal"}.get(defense, defense)


def _again(tables: Tables) -> list[Statement]:
    """Of the mean over tasks and optimizers: of a single one, a few looks at each of a few seeds say little."""
    if tables.attack is None:
        return []
    where = [setting for _, setting in _settings(tables)]
    return [
        one
        for defense in (SURGERY, BOTH)
        for one in _lower(
            f"{tables.attack}: with {_named(defense)} applied steps conflict more often than gradients",
            *(_mean_probe(tables, name, defense, where) for name in ("after", "applied")),
        )
    ]


def _projected(tables: Tables) -> list[Statement]:
    if tables.attack is None:
        return []
    settings = [setting for _, setting in _settings(tables)]
    plain = {setting["task"]: setting for setting in settings if setting["regime"] == _PLAIN}
    others = [setting for setting in settings if setting["regime"] != _PLAIN and setting["task"] in plain]
    kinds = {
        "projected optimizers": [one for one in others if not one["regime"].startswith(LORA)],
        "adapters": [one for one in others if one["regime"].startswith(LORA)],
    }
    return [
        one
        for kind, chosen in kinds.items()
        for defense in (NONE, SURGERY, BOTH)
        for one in _lower(
            f"{tables.attack}, {_named(defense)}: fewer applied steps of {kind} conflict than of AdamW",
            _mean_probe(tables, "applied", defense, chosen),
            _mean_probe(tables, "applied", defense, [plain[setting["task"]] for setting in chosen]),
        )
    ]


def _mean_probe(tables: Tables, name: str, defense: str, settings: Sequence[Setting]) -> pd.Series[float]:
    """`Tables.probes` under the attack, the mean over settings of each seed that has all of them."""
    assert tables.attack is not None
    series = [tables.probes(name, threat=tables.attack, defense=defense, **where) for where in settings]
    if not series:
        return pd.Series(dtype="float64")
    return pd.concat(series, axis=1).dropna().mean(axis=1)


def _separable(tables: Tables) -> list[Statement]:
    return [
        one
        for title, of in _parts(tables.updates)
        for one in _lower(
            f"{title}: harm overlaps with alignment by more than utility does",
            *(of[of["pair"] == f"alignment-{name}"].groupby("seed")["excess"].mean() for name in ("utility", "harm")),
        )
    ]


def _same_spaces(tables: Tables) -> list[Statement]:
    rows = tables.gradients
    if rows.empty:
        return []
    by_setting = rows.groupby([*_SETTING, "step", "pair", "seed"])["excess"].mean()
    means = by_setting.groupby(["step", "pair", "seed"]).mean()
    return [
        one
        for step in sorted(set(rows["step"]))
        for one in _lower(
            f"step {step}: the safety gradient overlaps with that of harmful rows by more than with the user's",
            *(means.loc[step].loc[f"safety-{name}"] for name in ("user", "harm")),
        )
    ]


def _parts(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The rows of every policy, task and optimizer with their title."""
    if rows.empty:
        return
    cells = list(dict.fromkeys(rows[_SETTING].itertuples(index=False, name=None)))
    for cell, title in titles(cells).items():
        yield title, rows[(rows[_SETTING] == list(cell)).all(axis=1)]


CLAIMS = (
    Claim(
        "Keywords",
        "Attack success by keywords, which most papers report, says less about a policy than the share of prompts that "
        "are answered: after a clean tuning it is higher, since a model may neither refuse nor answer.",
        ("keywords",), _keywords,
    ),
    Claim(
        "Poison", "A share of poisoned rows in the data of a user makes the model answer what it refused.",
        ("attack_success",), _poison,
    ),
    Claim(
        "Defenses", "Rehearsal of safety rows, and surgery with rehearsal (SafeGrad, arXiv 2508.07172), are safer than "
        "no defense.",
        ("attack_success", "pareto"), _safer((REHEARSAL, NONE), (BOTH, NONE)),
    ),
    Claim(
        "Surgery", "Surgery on the gradient (arXiv 2508.07172) is what makes SafeGrad safe: with it rehearsal is safer "
        "than without it.",
        ("attack_success",), _safer((BOTH, REHEARSAL)),
    ),
    Claim(
        "Rehearsal", "Not claimed there: surgery without rehearsal does not do what surgery with it does, at the same "
        "rows and nearly the same cost.",
        ("attack_success",), _safer((BOTH, SURGERY)),
    ),
    Claim(
        "Applied steps", "Not claimed elsewhere: momentum, the scales of Adam and projections bring back into the "
        "applied step what surgery removed from the gradient; the mean over tasks and optimizers.",
        ("conflict",), _again,
    ),
    Claim(
        "Projected steps",
        "Not claimed elsewhere: a step in a subspace of the gradient, or of adapters, conflicts with the safety "
        "gradient less often than that of AdamW on all weights, each at the learning rate of its headline; the mean "
        "over optimizers that project, and adapters.",
        ("conflict",), _projected,
    ),
    Claim(
        "Separability", "Safety lives in a subspace of its own (arXiv 2505.14185 denies it): what a poisoned tuning "
        "changes overlaps with what alignment changed by more than what a clean tuning changes does. Each overlap is "
        "less that of random spaces of the same dimensions; means over all matrices.",
        ("overlaps",), _separable,
    ),
    Claim(
        "Gradients of harm", "Gradients of harmful rows use the top spaces of the safety gradient more than gradients "
        "of the user's rows do, so that a space could tell them apart: before the first step, in the middle and after "
        "the last step of a poisoned tuning without a defense. Each overlap is less that of random spaces; means over "
        "all matrices, tasks and optimizers.",
        ("gradient_overlaps",), _same_spaces,
    ),
)  # fmt: skip
