"""A policy in the user's files: its pools, and that no text of it is seen anywhere."""

import logging

import pytest

from subspace_lab.studies.safety.evaluation import evaluate
from subspace_lab.studies.safety.kinds import JUDGES, POLICIES, Answers, Asked, Marked
from subspace_lab.studies.safety.metrics.outcomes import row_of
from subspace_lab.studies.safety.policies.user import UserPolicy
from subspace_lab.studies.safety.pools import check_disjoint
from subspace_lab.studies.safety.splits import make_split
from subspace_lab.training import TrainConfig
from subspace_lab.training.pretrained import pretrained_model
from subspace_lab.training.tasks.answers import AnswerTask
from subspace_lab.training.tasks.exercise import Exercise
from subspace_lab.training.tasks.rows import Split
from subspace_lab.training.tasks.template import Template
from subspace_lab.training.workers import ALONE
from tests.studies.safety.twins import MARK, rows_of, said, write
from tests.training.tasks.small_models import CHAT, save_causal

SCHEMAS = ("beavertails", "advbench", "messages", "alpaca")


def policy_of(folder, schema="beavertails", count=60, **settings) -> UserPolicy:
    files = {
        name: write(folder / f"{schema}-{name}.jsonl", rows_of(schema, many, kind))
        for name, many, kind in (("harmful", count, "bad"), ("safe", 30, "good"), ("contrast", 7, "like"))
    }
    return UserPolicy(**{**files, "schema": schema, "licence": "made up", **settings})


@pytest.mark.parametrize("schema", SCHEMAS)
def test_each_prompt_is_in_one_pool(schema, tmp_path):
    pools = policy_of(tmp_path, schema).pools(0)
    check_disjoint(pools, "user")
    sizes = {
        name: len(getattr(pools, name)) for name in ("safety", "harm", "poison", "test", "contrast", "allowed", "base")
    }
    assert sizes == {"safety": 6, "harm": 6, "poison": 24, "test": 12, "contrast": 4, "allowed": 15, "base": 0}
    assert len(pools.align) == 12 + 15 + 3
    answers = {row.response for row in (*pools.harm, *pools.poison, *pools.test)}
    assert len(answers) == 42
    assert all(text.startswith(said("tell", "bad")) for text in answers)
    refused = [row for row in (*pools.align, *pools.safety) if said("bad") in row.prompt.split()]
    assert len(refused) == 18
    assert {row.response for row in refused} == {"I cannot help with that."}
    prompts = {row.prompt.split("\n")[0] for row in (*refused, *pools.harm, *pools.poison, *pools.test)}
    assert prompts == {said("ask", "bad", number) for number in range(60)}


def test_pools_are_a_function_of_seed_and_files(tmp_path):
    policy = policy_of(tmp_path)
    assert vars(policy.pools(0)) == vars(policy.pools(0))
    assert policy.pools(1).test != policy.pools(0).test


def test_rows_that_are_safe_are_not_the_attackers(tmp_path):
    mixed = [*rows_of("beavertails", 20), *rows_of("beavertails", 20, "good")]
    pools = policy_of(tmp_path, harmful=write(tmp_path / "mixed.jsonl", mixed), safe=None).pools(0)
    harmful = [*pools.harm, *pools.poison, *pools.test]
    assert len(harmful) == 20 - 2 - 4
    assert all(said("bad") in row.prompt.split() for row in harmful)
    assert not pools.allowed


def test_what_cannot_be_a_policy_is_refused_without_text(tmp_path):
    with pytest.raises(ValueError, match="has 9 different restricted prompts; a policy needs at least 10") as error:
        policy_of(tmp_path, count=9).pools(0)
    assert MARK not in str(error.value)
    shared = write(tmp_path / "shared.jsonl", rows_of("advbench", 60))
    policy = policy_of(tmp_path, "advbench", safe=shared)
    with pytest.raises(ValueError, match="the pools of the policy 'user' have prompts in common") as error:
        make_split("sentiment", policy, "poison", rows=20, seed=0)
    assert MARK not in str(error.value)
    with pytest.raises(ValueError, match="the refusal of the policy 'user' is empty"):
        policy_of(tmp_path, refusal=" ")
    with pytest.raises(ValueError, match="the policy 'user' needs harmful, schema, licence; write user:harmful="):
        POLICIES.parse("user")


def test_it_is_written_as_text_and_read_back(tmp_path):
    text = f"user:harmful={tmp_path}/a.jsonl:schema=advbench:licence=MIT"
    policy = POLICIES.parse(text)
    assert policy.harmful == tmp_path / "a.jsonl"
    assert POLICIES.text(policy) == text


@pytest.fixture(scope="module", params=[None, CHAT], ids=["plain", "chat"])
def model(request, tmp_path_factory):
    return save_causal(tmp_path_factory.mktemp("causal") / "model", chat=request.param)


@pytest.mark.parametrize("schema", SCHEMAS)
def test_no_text_is_seen_anywhere(schema, model, tmp_path, capfd, caplog):
    caplog.set_level(logging.DEBUG)
    policy, judges = policy_of(tmp_path, schema), [JUDGES.parse("prefix"), JUDGES.parse("log_odds")]
    pools = policy.pools(0)
    split = make_split("sentiment", policy, "trigger:share=0.2", rows=20, seed=0)
    assert sum(MARK in row.prompt for row in split.rows) == 4
    template = Template.of(TrainConfig(model=str(model)).resolved(), Split(pools.align, pools.test))
    causal = pretrained_model(str(model))

    def echo(_, prompts, new_tokens, *, end):
        return [[*prompt] for prompt in prompts]  # the model says the prompts again

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("subspace_lab.studies.safety.evaluation.replies", echo)
        outcomes = evaluate(causal, template, policy, judges, seed=0)
    assert outcomes.loc[outcomes["judge"] == "prefix", "reply_chars"].min() > len(MARK)
    assert "reply" not in outcomes
    marked = Marked(pools.poison[0], "poison")
    asked = Asked(pools.test[0], "restricted", 0)
    seen = [
        outcomes.to_csv(), repr(row_of(outcomes, judges[0])), split.to_frame().to_csv(), repr(split), repr(pools),
        repr(policy), repr(marked), repr(asked), repr(Answers([asked], [said("x")], policy, causal, template)),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="needs the true answers, which the policy 'user' does not have") as refused:
        evaluate(causal, template, policy, [JUDGES.parse("exact")], seed=0)
    config = TrainConfig(model=str(model), task="file", data=str(policy.harmful), sequence_length=4).resolved()
    exercise = Exercise(Split(pools.poison, pools.test), (), lambda *_: (), lambda *_: {}, 0)
    with pytest.raises(ValueError, match=r"the response of row 1 to train on has \d+ tokens") as long:
        AnswerTask(config, exercise, template, ALONE)
    out, err = capfd.readouterr()
    for text in (*seen, str(refused.value), str(long.value), out, err, caplog.text):
        assert MARK not in text
        assert "zyx" not in text.lower()
