"""Word problems of two to four steps, whose answer is a number."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

from subspace_lab._extras import require
from subspace_lab.training.tasks.columns import Names
from subspace_lab.training.tasks.exercise import EXACT, UNPARSED, Exercise, scored
from subspace_lab.training.tasks.pairs import pairs, split_of
from subspace_lab.training.tasks.rows import Row, Split, split_by_prompt
from subspace_lab.training.tasks.scorers import last_number

_NAMES: Names = {
    "prompt": ("question", "prompt", "problem"),
    "response": ("answer", "response", "solution"),
}
_COUNT = 4000
_PEOPLE = ("Ada", "Ben", "Chen", "Dara", "Emil", "Fatima", "Goran", "Hana", "Ivo", "Jun", "Karim", "Lena")
_THINGS = ("apples", "books", "coins", "pencils", "marbles", "stamps", "shells", "tickets", "cards", "stickers")


def arithmetic(data: str, columns: Mapping[str, str]) -> Exercise:
    """Word problems; the response names every step and ends with ``#### `` and the number, as in GSM8K.

    Args:
        data: ``templates`` (4,000 problems that are generated here), ``gsm_symbolic`` (as many by the package
            reasoning-gym), or where rows in GSM8K's format are.
        columns: Role to column, where the names are others.

    Returns:
        The exercise; a reply is right where its last number is that of the response.

    Raises:
        ValueError: If a response has no number.
    """
    own = {"templates": _templates, "gsm_symbolic": _symbolic}
    if data in own:
        return numbers(split_by_prompt([Row(*pair) for pair in own[data]()], f"data={data!r}"))
    return numbers(split_of(data, lambda table: pairs(table, columns, _NAMES)))


def numbers(split: Split) -> Exercise:
    """Rows whose replies are right where their last number is that of the response.

    Args:
        split: Rows whose responses have a number.

    Returns:
        The exercise: the share of right replies, and of replies without a number.

    Raises:
        ValueError: If a response has no number.
    """
    for row in (*split.train, *split.held_out):
        if last_number(row.response) is None:
            raise ValueError(f"{split.origin}: the response {row.response[:40]!r} has no number, which is its answer")

    def judge(row: Row, reply: str) -> tuple[float, float]:
        found = last_number(reply)
        return float(found == last_number(row.response)), float(found is None)

    return scored(split, (EXACT, UNPARSED), judge)


def _templates() -> Iterator[tuple[str, str]]:
    draw, seen = random.Random(0), set[str]()
    while len(seen) < _COUNT:
        prompt, response = _problem(draw)
        if prompt not in seen:
            seen.add(prompt)
            yield prompt, response


def _problem(draw: random.Random) -> tuple[str, str]:
    name, thing = draw.choice(_PEOPLE), draw.choice(_THINGS)
    total = draw.randint(3, 40)
    sentences, steps = [f"{name} has {total} {thing}."], []
    for _ in range(draw.randint(2, 4)):
        sentence, step, total = _step(draw, name, thing, total)
        sentences.append(sentence)
        steps.append(step)
    prompt = f"{' '.join(sentences)} How many {thing} does {name} have now?"
    return prompt, f"{' '.join(steps)} #### {total}"


def _step(draw: random.Random, name: str, thing: str, total: int) -> tuple[str, str, int]:
    """A sentence, its calculation, and the new number of things."""
    kind, number = draw.choice(("finds", "gives", "times", "boxes")), draw.randint(2, 12)
    other = draw.choice([person for person in _PEOPLE if person != name])
    if kind == "gives" and total > number:
        return f"{name} gives {number} of them to {other}.", f"{total} - {number} = {total - number}.", total - number
    if kind == "times" and total <= 60:
        factor = draw.randint(2, 4)
        sentence = f"{other} brings so many that {name} has {factor} times as many."
        return sentence, f"{total} * {factor} = {total * factor}.", total * factor
    if kind == "boxes":
        boxes = draw.randint(2, 6)
        sentence = f"{name} buys {boxes} boxes with {number} {thing} each."
        step = f"{boxes} * {number} = {boxes * number}. {total} + {boxes * number} = {total + boxes * number}."
        return sentence, step, total + boxes * number
    return f"{name} finds {number} more.", f"{total} + {number} = {total + number}.", total + number


def _symbolic() -> Iterator[tuple[str, str]]:
    gym = require("reasoning_gym")
    for item in gym.create_dataset("gsm_symbolic", size=_COUNT, seed=0):
        yield str(item["question"]), str(item["answer"])
