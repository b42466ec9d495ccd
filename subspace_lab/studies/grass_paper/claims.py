"""The claims W1 to W6 of arXiv 2510.01878 and SubTrack's ablation, as statements about the tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pandas as pd

from subspace_lab.experiments.claims import MATCH, Claim, Statement, below
from subspace_lab.experiments.gradient_claims import core_energy, energy_over_depth, energy_over_training, flatness
from subspace_lab.experiments.statistics import best_rows
from subspace_lab.experiments.store import RESULTS
from subspace_lab.studies.grass_paper.quantity import PaperStore
from subspace_lab.studies.grass_paper.variants import RANDOM_NULL, part_name

_PEERS = ("galore", "apollo", "ldadam", "frugal", "subtrack")


def _energy(measure: Callable[[pd.DataFrame], list[Statement]]) -> Callable[[PaperStore], list[Statement]]:
    return lambda store: measure(store.read("fig1"))


def _w4(store: PaperStore) -> list[Statement]:
    return flatness(store.read("fig2"))


def _compared(store: PaperStore, pairs: Iterable[tuple[str, str, str]], margin: float = 0) -> list[Statement]:
    """For each ``(text, one, other)`` of which both are trained: the loss of one is below that of the other."""
    rows = best_rows(store.read(RESULTS))
    losses = {} if rows.empty else {name: of.set_index("seed")["eval_loss"] for name, of in rows.groupby("method")}
    return [
        below(text, losses[one], losses[other], margin=margin)
        for text, one, other in pairs
        if one in losses and other in losses
    ]


def _full(rule: str) -> str:
    """A rule with AO and RS."""
    return part_name(rule, "transport", "limited")


def _w5(store: PaperStore) -> list[Statement]:
    matches = [
        (f"{rule} matches or beats {informed}, both with AO and RS", _full(rule), _full(informed))
        for rule in ("walk", "jump")
        for informed in ("svd", "track")
    ]
    needs = [
        (f"{rule} with AO and RS is below {rule} with {marks} alone", _full(rule), part_name(rule, *parts))
        for rule in ("walk", "jump")
        for marks, parts in (("RS", ("keep", "limited")), ("AO", ("transport", "none")))
    ]
    return _compared(store, matches, MATCH) + _compared(store, needs)


def _null(store: PaperStore) -> list[Statement]:
    pairs = []
    for recovery, words in (("limited", "AO and RS"), ("free", "AO and RS without its limiter")):
        null = part_name("frozen", "transport", recovery)
        for rule in store.profile.rules[1:]:
            text = f"{rule} is below the frozen basis, both with {words}"
            pairs.append((text, part_name(rule, "transport", recovery), null))
    pairs += [
        (f"{name} is below a random basis that never moves", name, RANDOM_NULL) for name in ("grasswalk", "grassjump")
    ]
    return _compared(store, pairs)


def _limiter(store: PaperStore) -> list[Statement]:
    pairs = []
    for rule in store.profile.rules:
        free = part_name(rule, "transport", "free")
        pairs.append((f"{rule} with AO and RS is better without the limiter", free, _full(rule)))
    return _compared(store, pairs)


def _w6(store: PaperStore) -> list[Statement]:
    methods = ("grasswalk", "grassjump")
    return _in_every_size(store, [(f"{method} is below {peer}", method, peer) for method in methods for peer in _PEERS])


def _in_every_size(store: PaperStore, pairs: Iterable[tuple[str, str, str]], margin: float = 0) -> list[Statement]:
    """The statements of `_compared`, and the same of the larger size."""
    found, size = [*pairs], store.profile.larger
    if size:
        name = size.settings["preset"]
        found += [(f"{text}, in {name}", f"{one} {name}", f"{other} {name}") for text, one, other in found]
    return _compared(store, found, margin)


def _against_adamw(store: PaperStore) -> list[Statement]:
    methods = (*store.profile.methods[1:], _full("frozen"))
    return _in_every_size(store, [(f"{name} matches or beats adamw", name, "adamw") for name in methods], MATCH)


def _scale(store: PaperStore) -> list[Statement]:
    same = (
        ("grasswalk at scale 0.25", "grasswalk scale=0.25", "grasswalk at scale 1", "grasswalk"),
        ("galore, whose scale is 0.25,", "galore", "the same parts at scale 1", part_name("svd", "keep", "none")),
    )
    pairs = [
        pair
        for one, name, other, other_name in same
        for pair in ((f"{one} matches or beats {other}", name, other_name),
                     (f"{other} matches or beats {one}".rstrip(","), other_name, name))
    ]  # fmt: skip
    return _compared(store, pairs, MATCH)


def _subtrack(store: PaperStore) -> list[Statement]:
    alone, both = part_name("track", "keep", "none"), _full("track")
    ao, rs = part_name("track", "transport", "none"), part_name("track", "keep", "limited")
    return _compared(store, [
        ("tracking with AO is below tracking alone", ao, alone),
        ("tracking with RS is below tracking alone", rs, alone),
        ("tracking with both is below tracking with AO", both, ao),
        ("tracking with both is below tracking with RS", both, rs),
    ])  # fmt: skip


CLAIMS = (
    Claim(
        "W1", "A small core subspace holds most of the gradient's energy: ratio above 0.5 (Fig. 1).", ("fig1",),
        _energy(core_energy),
    ),
    Claim("W2", "The ratio declines over training (Fig. 1).", ("fig1",), _energy(energy_over_training)),
    Claim("W3", "Deeper layers have smaller ratios (Fig. 1).", ("fig1_depth",), _energy(energy_over_depth)),
    Claim(
        "W4",
        "The landscape of subspaces is nearly flat: the top-20 singular values of the error's derivative are tiny, "
        "largest for down_proj, more uniform later (Fig. 2).",
        ("fig2", "fig2_raw"), _w4,
    ),
    Claim(
        "W3 and W4 in a deep pretrained model",
        "The same in a model of many blocks whose weights come from a long training.",
        ("gradients of a pretrained model",), lambda _: [],
    ),
    Claim(
        "W5",
        "Random updates of the subspace match or beat SVD and tracking, but only together with projection-aware "
        "moments (AO) and recovery scaling (RS) (Fig. 3).",
        ("fig3",), _w5,
    ),
    Claim(
        "W6",
        "GrassWalk and GrassJump beat GaLore, APOLLO, LDAdam, FRUGAL and SubTrack++ at the same memory and wall time "
        "(Tables 1 and 2).",
        ("tables", "larger", "refresh"), _w6,
    ),
    Claim(
        "Against AdamW",
        "Not claimed at equal tuning, but it decides whether a method is of use: with as much tuning as AdamW, rates "
        "of embeddings, head and norms included, it reaches AdamW's loss.",
        ("tables", "pareto", "larger", "larger_pareto"), _against_adamw,
    ),
    Claim(
        "The scale",
        "A question to W6: the default scale of GaLore, GoLore and Fira is 0.25, that of GrassWalk, GrassJump and "
        "SubTrack++ is 1. It multiplies the step of the matrices and not that of embeddings and head. Where both have "
        "a rate of their own, a scale is nothing but a factor of the rate, and makes no difference.",
        ("sensitivity",), _scale,
    ),
    Claim(
        "SubTrack's ablation",
        "Tracking alone is improved by AO, by RS, and most by both (arXiv 2502.01586).",
        ("fig3",), _subtrack,
    ),
    Claim(
        "The null",
        "Not claimed but needed by all of the above: a rule that moves the basis is better than never moving it.",
        ("tables", "fig3"), _null,
    ),
    Claim(
        "The limiter",
        "A question to the method: the limiter of recovery scaling holds rules back by different factors. Are they "
        "better without it?",
        ("fig3", "recovery"), _limiter,
    ),
)  # fmt: skip
