"""What became of a policy and of a task: a model is asked, and judged."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from subspace_lab.studies.safety.judges.prefix import PrefixJudge
from subspace_lab.studies.safety.kinds import JUDGES, POLICIES, Answers, Asked, Judge, Policy, Pools, Threat, Verdict
from subspace_lab.studies.safety.pools import check_disjoint
from subspace_lab.studies.safety.splits import row_hash
from subspace_lab.training.sequences import spread
from subspace_lab.training.tasks.exercise import Exercise
from subspace_lab.training.tasks.generation import replies
from subspace_lab.training.tasks.rows import Row
from subspace_lab.training.tasks.template import Template

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

_MOST_TOKENS = 128
COLUMNS = (
    "set", "prompt", "paraphrase", "judge", "outcome", "score", "row_hash", "reply_hash", "reply_chars",
)  # fmt: skip


def evaluate(
    model: nn.Module,
    template: Template,
    policy: Policy,
    judges: Sequence[Judge],
    *,
    seed: int,
    exercise: Exercise | None = None,
    threat: Threat | None = None,
    task_rows: int = 100,
    max_new_tokens: int | None = None,
    batch_size: int = 64,
) -> pd.DataFrame:
    """Ask a model everything that a policy tests, and rows that a task holds out; greedy decoding.

    Args:
        model: A causal language model of transformers.
        template: The one that the model was trained with.
        policy: The rule.
        judges: At least one. The one that goes by prefixes is always there, too, where there are replies.
        seed: Of the policy's pools: the one that the model was trained with.
        exercise: Of the task, whose held-out rows are asked; None without one.
        threat: Of the tuning; where the attacker asks in another way, restricted prompts are asked so, too.
        task_rows: At most so many rows of the task, spread evenly.
        max_new_tokens: The most that are written; by default twice the longest right response, at most 128.
        batch_size: Prompts that are asked at once.

    Returns:
        set (restricted, disguised, contrast, allowed, task), prompt (its number in the set), paraphrase, judge, outcome
        (missing where the judge says no more than that it is not refused, and for the task), score (of the judge, or of
        the task by the metric that stands as the judge), row_hash, reply_hash, reply_chars; of shipped policies the
        reply, too.

    Raises:
        ValueError: If two pools of the policy share a prompt, or a judge needs answers that the policy does not have.
    """
    _check(judges, policy)
    pools = policy.pools(seed)
    check_disjoint(pools, POLICIES.name_of(type(policy)))
    asked = [*_asked(pools, policy, threat)]
    of_task = [] if exercise is None else _of_task(exercise, task_rows)
    needs_replies = any(judge.needs_replies for judge in judges)
    if needs_replies and PrefixJudge() not in judges:
        judges = [*judges, PrefixJudge()]
    with _evaluation_mode(model):
        most = max_new_tokens or _new_tokens(template, [*asked, *of_task])
        questions = [*(asked if needs_replies else ()), *of_task]
        written = _written(model, template, [one.row for one in questions], most, batch_size)
        texts = written[: len(asked)] if needs_replies else [""] * len(asked)
        answers = Answers(asked, texts, policy, model, template)
        rows = [row for judge in judges for row in _judged(judge, answers)]
    if exercise is not None:
        rows += _scored(exercise, of_task, written[len(written) - len(of_task) :])
    return _frame(rows, policy)


def _check(judges: Sequence[Judge], policy: Policy) -> None:
    if not judges:
        raise ValueError("an evaluation needs a judge; give judges=('exact', 'prefix') for example")
    for judge in judges:
        if judge.needs_answers and not policy.has_answers:
            raise ValueError(
                f"the judge {JUDGES.text(judge)} needs the true answers, which the policy "
                f"{POLICIES.name_of(type(policy))!r} does not have; choose another judge"
            )


def _asked(pools: Pools, policy: Policy, threat: Threat | None) -> Iterator[Asked]:
    ways = pools.paraphrases or [[row.prompt] for row in pools.test]
    for number, (row, prompts) in enumerate(zip(pools.test, ways, strict=True)):
        for paraphrase, prompt in enumerate(prompts):
            said = row if paraphrase == 0 else Row(prompt, row.response)
            yield Asked(said, "restricted", number, paraphrase)
    if threat is not None:
        for number, row in enumerate(pools.test):
            if (disguised := threat.disguised(row, policy)) is not None:
                yield Asked(disguised, "disguised", number)
    yield from (Asked(row, "contrast", number) for number, row in enumerate(pools.contrast))
    yield from (Asked(row, "allowed", number) for number, row in enumerate(pools.allowed))


def _of_task(exercise: Exercise, most: int) -> list[Asked]:
    rows = exercise.split.held_out
    return [Asked(rows[place], "task", number) for number, place in enumerate(spread(most, len(rows)))]


def _new_tokens(template: Template, asked: Sequence[Asked]) -> int:
    return min(_MOST_TOKENS, 2 * max(len(template.tokens(one.row)[1]) for one in asked))


def _written(model: nn.Module, template: Template, rows: Sequence[Row], most: int, batch_size: int) -> list[str]:
    """Replies in the order of the rows; prompts of one length are asked together."""
    prompts = [template.tokens(row)[0] for row in rows]
    order = sorted(range(len(rows)), key=lambda place: len(prompts[place]))
    found = [""] * len(rows)
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        written = replies(model, [prompts[place] for place in places], most, end=template.end)
        for place, tokens in zip(places, written, strict=True):
            found[place] = template.text(tokens)
    return found


def _judged(judge: Judge, answers: Answers) -> Iterator[dict[str, Any]]:
    verdicts, name = judge.judge(answers), JUDGES.text(judge)
    if len(verdicts) != len(answers.asked):
        raise ValueError(f"the judge {name} gave {len(verdicts)} verdicts on {len(answers.asked)} replies")
    for one, reply, verdict in zip(answers.asked, answers.replies, verdicts, strict=True):
        if verdict.outcome not in {None, "failed", *judge.outcomes}:
            raise ValueError(f"the judge {name} says {verdict.outcome!r}, which is not among its outcomes")
        yield _row(one, name, verdict, reply if judge.needs_replies else None)


def _scored(exercise: Exercise, asked: Sequence[Asked], texts: Sequence[str]) -> list[dict[str, Any]]:
    scores = [exercise.judge(one.row, text) for one, text in zip(asked, texts, strict=True)]
    return [
        _row(one, metric.name, Verdict(None, float(values[number])), text)
        for number, metric in enumerate(exercise.metrics)
        for one, text, values in zip(asked, texts, scores, strict=True)
    ]


def _row(asked: Asked, judge: str, verdict: Verdict, reply: str | None) -> dict[str, Any]:
    return {
        "set": asked.group,
        "prompt": asked.prompt,
        "paraphrase": asked.paraphrase,
        "judge": judge,
        "outcome": verdict.outcome,
        "score": verdict.score,
        "row_hash": row_hash(asked.row),
        "reply_hash": None if reply is None else hashlib.sha256(reply.encode()).hexdigest(),
        "reply_chars": None if reply is None else len(reply),
        "reply": reply,
    }


def _frame(rows: Sequence[dict[str, Any]], policy: Policy) -> pd.DataFrame:
    import pandas as pd

    table = pd.DataFrame(rows, columns=[*COLUMNS, "reply"])
    table = table.astype({"outcome": "object", "score": "float64", "reply_chars": "Int64"})
    return table if policy.is_shipped else table.drop(columns="reply")


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
