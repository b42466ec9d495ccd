"""Which ranks fit into a budget of bytes, given to the layers where energy above noise pays most.

Legend: m, n shape of a layer's oriented gradient, ``m <= n``; r rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from subspace_lab.runs import RunError


@dataclass(frozen=True)
class Choice:
    """What a layer gains from one of its ranks.

    Attributes:
        rank: r.
        gain: Signal, or energy above the noise null, as a fraction, times the number of weights: Adam's steps weigh
            all entries alike, whatever the size of their gradients.
        state_bytes: See `state_bytes`.
    """

    rank: int
    gain: float
    state_bytes: int


def state_bytes(m: int, n: int, rank: int, rule: str = "walk") -> int:
    """What an optimizer keeps of a matrix, in float32: a basis (m, r), two moments (r, n) and one norm.

    In the place of the basis ``trig_walk`` keeps r indices of four bytes, and ``trig`` nothing.

    Args:
        m: Rows.
        n: Columns.
        rank: r, before it is cut to m.
        rule: How the basis is refreshed.

    Returns:
        Bytes.
    """
    r = min(rank, m)
    return 4 * ({"trig": 0, "trig_walk": r}.get(rule, m * r) + 2 * n * r + 1)


def fit_ranks(choices: Mapping[str, Sequence[Choice]], budget_bytes: int) -> dict[str, int]:
    """The rank of every layer, upgraded where the next bytes gain most until nothing more fits.

    Every layer begins at its smallest rank. An upgrade may skip ranks: the one taken is that of the largest gain per
    byte among all higher ranks of all layers.

    Args:
        choices: Layer to its possible ranks, ascending.
        budget_bytes: What all layers' states have to fit into.

    Returns:
        Layer to rank.

    Raises:
        RunError: If not even the smallest ranks fit; states the minimum.
    """
    chosen = {layer: options[0] for layer, options in choices.items()}
    left = budget_bytes - sum(choice.state_bytes for choice in chosen.values())
    if left < 0:
        raise RunError(
            f"a budget of {budget_bytes:,} bytes is too small: the smallest measured ranks of all layers take "
            f"{budget_bytes - left:,}; give that, or analyse smaller ranks"
        )
    while True:
        upgrades = [
            ((option.gain - now.gain) / (option.state_bytes - now.state_bytes), layer, option)
            for layer, now in chosen.items()
            for option in choices[layer]
            if option.rank > now.rank and option.gain > now.gain and 0 < option.state_bytes - now.state_bytes <= left
        ]
        if not upgrades:
            return {layer: choice.rank for layer, choice in chosen.items()}
        _, layer, option = max(upgrades, key=lambda upgrade: upgrade[0])
        left -= option.state_bytes - chosen[layer].state_bytes
        chosen[layer] = option
