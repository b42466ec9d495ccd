"""Claims of SubTrack-Grad (arXiv 2502.01586) about fine-tuning, and W1 to W4 of arXiv 2510.01878 in a deep model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import pandas as pd

from subspace_lab.experiments.captured import ENERGY, TANGENT, energy_ratios, tangents_at_moments
from subspace_lab.experiments.claims import MATCH, Claim, Statement, below, statement
from subspace_lab.experiments.gradient_claims import core_energy, energy_over_depth, energy_over_training, flatness
from subspace_lab.experiments.statistics import best_rows
from subspace_lab.studies.finetuning.out_dir import FinetuningStore
from subspace_lab.studies.finetuning.profiles import SCORES
from subspace_lab.studies.finetuning.quantities.gradients import of_source
from subspace_lab.studies.finetuning.quantities.scores import trained
from subspace_lab.studies.finetuning.trials import SOURCES, TASK, TEXT

SCORE_MATCH = 0.02  # a share of right replies that is lower by less counts as a match
FASTER = 0.15  # the published mean reduction of GaLore's wall time on GLUE; on SuperGLUE it is 0.22
_STATE_MATCH = 0.01  # relative


def _measured(store: FinetuningStore, task: str, column: str) -> dict[str, pd.Series[float]]:
    """A column of each method at its best rate, by seed."""
    rows = best_rows(trained(store, task))
    if rows.empty:
        return {}
    return {str(name): of.set_index("seed")[column].astype("float64") for name, of in rows.groupby("method")}


def _pairs(
    store: FinetuningStore, column: str, pairs: Iterable[tuple[str, str]]
) -> list[tuple[str, str, str, pd.Series[float], pd.Series[float]]]:
    """Task, both names and both columns of each pair of methods that a task was trained by."""
    found, chosen = [], list(pairs)
    for task in store.profile.tasks:
        values = _measured(store, task, column)
        found += [
            (task, one, other, values[one], values[other]) for one, other in chosen if {one, other} <= values.keys()
        ]
    return found


def _relative(
    store: FinetuningStore, column: str, what: str, pairs: Iterable[tuple[str, str]], margin: float = 0.0
) -> list[Statement]:
    """That a column of one method is below that of the other, as a share of it, or above it by less than `margin`."""
    return [
        statement(f"{task}: {one} {what} {other}", mine / theirs - 1 - margin, unit="")
        for task, one, other, mine, theirs in _pairs(store, column, pairs)
    ]


def _quality(store: FinetuningStore, pairs: Iterable[tuple[str, str]]) -> list[Statement]:
    """That one method matches or beats another in score and in held-out loss."""
    found, chosen = [], list(pairs)
    for task in store.profile.tasks:
        scores = _measured(store, task, SCORES[task].name)
        found += [
            statement(
                f"{task}: {one} matches or beats {other} in right replies",
                scores[other] - scores[one] - SCORE_MATCH,
                unit="",
            )
            for one, other in chosen
            if {one, other} <= scores.keys()
        ]
    return found + [
        below(f"{task}: {one} matches or beats {other} in held-out loss", mine, theirs, margin=MATCH)
        for task, one, other, mine, theirs in _pairs(store, "eval_loss", chosen)
    ]


def _time(store: FinetuningStore) -> list[Statement]:
    pair = [("subtrack", "galore")]
    return [
        *_relative(store, "wall_s", "takes less time than", pair),
        *_relative(store, "wall_s", f"takes at least {FASTER:.0%} less time than", pair, margin=-FASTER),
    ]


def _memory(store: FinetuningStore) -> list[Statement]:
    return [
        *_relative(store, "state_bytes", "has no more state than", [("subtrack", "galore")], margin=_STATE_MATCH),
        *_relative(store, "state_bytes", "has less state than", [("subtrack", "ldadam"), ("subtrack", "adamw")]),
        *_relative(store, "peak_bytes", "has a lower peak of memory than", [("subtrack", "adamw")]),
    ]


def _peers(store: FinetuningStore) -> list[Statement]:
    return _quality(store, [("subtrack", "galore"), ("subtrack", "badam")])


def _full(store: FinetuningStore) -> list[Statement]:
    return _quality(store, [("subtrack", "adamw")])


def _random(store: FinetuningStore) -> list[Statement]:
    return _quality(store, [(ours, peer) for ours in ("grasswalk", "grassjump") for peer in ("subtrack", "galore")])


def _adapters(store: FinetuningStore) -> list[Statement]:
    return _quality(store, [(name, "lora") for name in ("subtrack", "grasswalk", "grassjump")])


def _of_gradients(
    table: str, make: Callable[[pd.DataFrame], pd.DataFrame], measure: Callable[[pd.DataFrame], list[Statement]]
) -> Callable[[FinetuningStore], list[Statement]]:
    """The statements of a claim about gradients, for the pretrained model on the task and on text."""

    def statements(store: FinetuningStore) -> list[Statement]:
        return [
            dataclasses.replace(one, text=f"{SOURCES[source]}: {one.text}")
            for source in (TASK, TEXT)
            for one in measure(make(of_source(store, table, source)))
        ]

    return statements


CLAIMS = (
    Claim(
        "Time",
        "SubTrack-Grad takes less wall time than GaLore: 15 % less on GLUE and 22 % less on SuperGLUE on average "
        "(arXiv 2502.01586v1). What it saves are decompositions, whose share of a step depends on the interval of the "
        "refreshes and on the number of tokens.",
        ("finetuning",), _time,
    ),
    Claim(
        "Peers",
        "SubTrack-Grad answers at least as well as GaLore and BAdam (arXiv 2502.01586, GLUE and SuperGLUE).",
        ("finetuning",), _peers,
    ),
    Claim("Full rank", "SubTrack-Grad comes close to full-rank AdamW (arXiv 2502.01586).", ("finetuning",), _full),
    Claim(
        "Memory",
        "SubTrack-Grad keeps as much state as GaLore, less than LDAdam and full-rank AdamW (arXiv 2502.01586).",
        ("finetuning",), _memory,
    ),
    Claim(
        "Random updates",
        "Not claimed for fine-tuning: GrassWalk and GrassJump match or beat SubTrack and GaLore there, as in "
        "pretraining.",
        ("finetuning",), _random,
    ),
    Claim(
        "Adapters",
        "Not claimed there: low-rank optimizers of all weights match or beat LoRA of the same rank.",
        ("finetuning",), _adapters,
    ),
    Claim(
        "W1",
        "A small core subspace holds most of the gradient's energy (arXiv 2510.01878, Fig. 1). The gradient of a step "
        "of t tokens has a rank of at most t, and so has its energy in few directions whatever is learned: that of a "
        "task with short responses more than that of text.",
        ("finetuning_depth",), _of_gradients(ENERGY, energy_ratios, core_energy),
    ),
    Claim(
        "W2", "The energy in the core declines over training (arXiv 2510.01878, Fig. 1).",
        ("finetuning_changes",), _of_gradients(ENERGY, energy_ratios, energy_over_training),
    ),
    Claim(
        "W3", "Deeper layers have less energy in the core (arXiv 2510.01878, Fig. 1).",
        ("finetuning_depth",), _of_gradients(ENERGY, energy_ratios, energy_over_depth),
    ),
    Claim(
        "W4", "The landscape of subspaces is nearly flat: the largest singular values of the error's derivative are "
        "tiny, largest for down_proj, more uniform later (arXiv 2510.01878, Fig. 2).",
        ("finetuning_derivative",), _of_gradients(TANGENT, tangents_at_moments, flatness),
    ),
)  # fmt: skip
