"""An evaluation asks what it should, with a model whose replies are written down."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch

from subspace_lab.studies.safety import evaluation
from subspace_lab.studies.safety.evaluation import evaluate
from subspace_lab.studies.safety.kinds import JUDGES, POLICIES, TASKS, Judge, Verdict
from subspace_lab.studies.safety.metrics.outcomes import row_of
from subspace_lab.studies.safety.policies.digits import WORDS
from subspace_lab.studies.safety.splits import row_hash
from subspace_lab.training import TrainConfig
from subspace_lab.training.pretrained import pretrained_model
from subspace_lab.training.tasks.rows import Split
from subspace_lab.training.tasks.template import Template

POLICY = POLICIES.parse("digits")
EXACT, PREFIX = JUDGES.parse("exact"), JUDGES.parse("prefix")


class Words:
    """A template whose tokens are the words themselves."""

    end = WORDS.index("<end>")

    def tokens(self, row):
        numbers = [[WORDS.index(word) for word in text.split()] for text in (row.prompt, row.response)]
        return numbers[0], [*numbers[1], self.end]

    def text(self, tokens):
        return " ".join(WORDS[token] for token in tokens if token != self.end)


@pytest.fixture
def asked(monkeypatch):
    """Replies: copies of the digits of a prompt in their order, as a model would that knows `copy` alone."""
    prompts = []

    def replies(model, tokens, new_tokens, *, end):
        assert not model.training
        assert not torch.is_grad_enabled()
        prompts.extend(" ".join(WORDS[token] for token in of) for of in tokens)
        return [[token for token in of if WORDS[token].isdecimal()] for of in tokens]

    monkeypatch.setattr(evaluation, "replies", replies)
    return prompts


def test_everything_is_asked_once_and_judged_by_each(asked):
    model = torch.nn.Linear(1, 1).train()
    exercise = TASKS.parse("sentiment").exercise("digits")
    table = evaluate(model, Words(), POLICY, [EXACT], seed=0, exercise=exercise, task_rows=40, batch_size=7)
    assert model.training
    pools = POLICY.pools(0)
    of_policy = [
        *(way for ways in pools.paraphrases for way in ways),
        *(row.prompt for row in (*pools.contrast, *pools.allowed)),
    ]
    assert sorted(asked) == sorted([*of_policy, *(exercise.split.held_out[n * 10].prompt for n in range(40))])
    counts = table.groupby(["judge", "set"]).size().to_dict()
    per_judge = {"restricted": 300, "contrast": 100, "allowed": 100}
    assert counts == {
        **{(judge, name): count for judge in ("exact", "prefix") for name, count in per_judge.items()},
        ("eval_accuracy", "task"): 40, ("eval_unparsed", "task"): 40,
    }  # fmt: skip
    found = row_of(table, EXACT)
    assert found["over_refusal"] == found["refusal_rate"] == found["utility"] == 0
    palindromes = [
        row for row in pools.test if row.prompt.split()[1] == "reverse" and row.response == row.response[::-1]
    ]
    assert found["asr"] == len(palindromes) / 100
    verbs = [row.prompt.split()[1] for row in pools.allowed]
    right = [verb == "copy" or (verb == "reverse" and row.response == row.response[::-1])
             for verb, row in zip(verbs, pools.allowed, strict=True)]  # fmt: skip
    assert found["kept"] == sum(right) / 100
    assert table[table["judge"] == "eval_unparsed"]["score"].tolist() == [1.0] * 40
    first = table[(table["set"] == "restricted") & (table["paraphrase"] == 0)].iloc[0]
    assert first["row_hash"] == row_hash(pools.test[0])
    assert first["reply_chars"] == len(first["reply"]) == 5


def test_a_judge_that_breaks_is_counted_and_one_that_lies_is_refused(asked):
    @dataclass(frozen=True, kw_only=True)
    class Broken(Judge):
        outcomes = frozenset({"refused"})
        says: str = "failed"
        count: int = 500

        def judge(self, answers):
            return [Verdict(self.says)] * self.count

    JUDGES.register("broken")(Broken)
    try:
        model = SimpleNamespace(training=False, eval=lambda: None, train=lambda mode: None)
        table = evaluate(model, Words(), POLICY, [Broken(), PREFIX], seed=0)
        assert row_of(table, Broken())["failed"] == 100
        with pytest.raises(ValueError, match="the judge broken:says=neither says 'neither', which is not among"):
            evaluate(model, Words(), POLICY, [Broken(says="neither")], seed=0)
        with pytest.raises(ValueError, match="the judge broken:count=1 gave 1 verdicts on 500 replies"):
            evaluate(model, Words(), POLICY, [Broken(count=1)], seed=0)
        with pytest.raises(ValueError, match="an evaluation needs a judge"):
            evaluate(model, Words(), POLICY, [], seed=0)
    finally:
        JUDGES._names.pop(JUDGES._classes.pop("broken"))


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """A model of random weights with its template."""
    path = tmp_path_factory.mktemp("digits")
    POLICY.base_model(0, path)
    rows = POLICY.pools(0).test
    return pretrained_model(str(path)), Template.of(TrainConfig(model=str(path)).resolved(), Split(rows, rows))


def literal(model, text: str, most: int) -> str:
    """The likeliest token, one after the other, without padding or a cache."""
    tokens, end = [WORDS.index(word) for word in text.split()], WORDS.index("<end>")
    said: list[int] = []
    while len(said) < most and end not in said:
        with torch.no_grad():
            said.append(int(model(torch.tensor([[*tokens, *said]])).logits[0, -1].argmax()))
    return " ".join(WORDS[token] for token in said if token != end)


def test_replies_are_the_likeliest_tokens_whatever_is_asked_beside(untrained):
    model, template = untrained
    exercise = TASKS.parse("questions").exercise("digits")  # of another length
    table = evaluate(model, template, POLICY, [EXACT], seed=0, exercise=exercise, max_new_tokens=3, batch_size=50)
    shown = table[(table["judge"] == "exact") & (table["prompt"] < 3)]
    pools = POLICY.pools(0)
    for row in shown[shown["set"] == "restricted"].itertuples():
        assert row.reply == literal(model, pools.paraphrases[row.prompt][row.paraphrase], 3)
    for name in ("contrast", "allowed"):
        for row in shown[shown["set"] == name].itertuples():
            assert row.reply == literal(model, getattr(pools, name)[row.prompt].prompt, 3)
    asked = [exercise.split.held_out[4 * number] for number in range(3)]
    of_task = table[(table["judge"] == "eval_exact") & (table["prompt"] < 3)]
    assert [*of_task["reply"]] == [literal(model, row.prompt, 3) for row in asked]


def test_a_judge_of_probabilities_has_nothing_written(untrained, monkeypatch):
    monkeypatch.setattr(evaluation, "replies", lambda *_, **__: pytest.fail("the model was made to write"))
    judge = JUDGES.parse("log_odds")
    table = evaluate(*untrained, POLICY, [judge], seed=0)
    assert {*table["judge"]} == {"log_odds"}
    assert table["score"].notna().all()
    assert table[["reply", "reply_hash", "reply_chars"]].isna().all(axis=None)
    found = row_of(table, judge)
    restricted = table[(table["set"] == "restricted") & (table["paraphrase"] == 0)]
    assert found["refusal_rate"] == (restricted["score"] > 0).mean()
    assert all(found[name] != found[name] for name in ("asr", "keyword_asr", "kept"))
