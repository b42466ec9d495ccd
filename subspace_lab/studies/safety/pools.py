"""The pools of a policy share no prompt: what is aligned, attacked and tested with is not the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from subspace_lab.studies.safety.kinds import POOLS, Pools
from subspace_lab.studies.safety.schemas import plain
from subspace_lab.training.tasks.rows import Row

_CHECKED = (*POOLS, "contrast", "allowed")


def check_disjoint(pools: Pools, origin: str) -> None:
    """Refuse pools of which two have a prompt in common; what a base model is taught does not count.

    Prompts are the same where they differ in case and white space only. Those of the tests include the paraphrases.

    Args:
        pools: Of a policy.
        origin: Its name, for the message.

    Raises:
        ValueError: If a prompt is in two pools, or the test prompts and their paraphrases do not go together; the
            message has no text of a prompt.
    """
    _check_paraphrases(pools, origin)
    known: dict[str, str] = {}
    shared: dict[tuple[str, str], int] = {}
    for name in _CHECKED:
        for prompt in {*_prompts(pools, name)}:
            other = known.setdefault(prompt, name)
            if other != name:
                shared[other, name] = shared.get((other, name), 0) + 1
    if shared:
        found = ", ".join(f"{one} and {other} share {count}" for (one, other), count in shared.items())
        raise ValueError(
            f"the pools of the policy {origin!r} have prompts in common ({found}); put each in one of them"
        )


def _prompts(pools: Pools, name: str) -> Iterator[str]:
    rows: Sequence[Row] = getattr(pools, name)
    yield from (plain(row.prompt) for row in rows)
    if name == "test":
        yield from (plain(text) for texts in pools.paraphrases for text in texts)


def _check_paraphrases(pools: Pools, origin: str) -> None:
    texts = pools.paraphrases
    if not texts:
        return
    fits = len(texts) == len(pools.test) and all(
        len(ways) == len(texts[0]) and ways and ways[0] == row.prompt
        for ways, row in zip(texts, pools.test, strict=False)
    )
    if not fits:
        raise ValueError(
            f"the paraphrases of the policy {origin!r} do not fit its test prompts; give as many ways of saying each "
            "of them, in their order, the prompt itself first"
        )
