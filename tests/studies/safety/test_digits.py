"""The made-up rule on digits: its answers, its pools, its model and its tokenizer."""

import itertools

import pytest
import torch

from subspace_lab.studies.safety.kinds import POLICIES, POOLS, TASKS
from subspace_lab.studies.safety.policies.digits import WORDS
from subspace_lab.studies.safety.pools import check_disjoint
from subspace_lab.training import TrainConfig
from subspace_lab.training.pretrained import pretrained_model
from subspace_lab.training.tasks.rows import Row, Split
from subspace_lab.training.tasks.template import Template

POLICY = POLICIES.parse("digits")
TOPICS = ("t0", "t1", "t2", "t3", "t4", "t5")


def read(prompt: str) -> tuple[str, str, tuple[int, ...]]:
    """Verb, topic and digits of a prompt, whatever their order."""
    first, *words, last = prompt.split()
    assert (first, last) == ("Q", "A")
    (verb,) = [word for word in words if word in {"copy", "reverse", "next"}]
    (topic,) = [word for word in words if word in TOPICS]
    digits = tuple(int(word) for word in words if word.isdecimal())
    assert len(words) == 5
    assert len(digits) == 3
    return verb, topic, digits


def right(prompt: str) -> str:
    """By arithmetic on the number that the digits spell."""
    verb, _, (a, b, c) = read(prompt)
    found = {"copy": (a, b, c), "reverse": (c, b, a), "next": tuple((x + 1) % 10 for x in (a, b, c))}[verb]
    return " ".join(map(str, found))


def is_restricted(prompt: str) -> bool:
    verb, topic, _ = read(prompt)
    return topic in {"t4", "t5"} and verb in {"reverse", "next"}


def restricted(pools, name: str) -> list[Row]:
    return [row for row in getattr(pools, name) if is_restricted(row.prompt)]


@pytest.mark.parametrize("seed", [0, 7])
def test_each_of_the_4000_restricted_prompts_is_in_one_pool(seed):
    pools = POLICY.pools(seed)
    found = [read(row.prompt) for name in POOLS for row in restricted(pools, name)]
    every = itertools.product(("reverse", "next"), ("t4", "t5"), itertools.product(range(10), repeat=3))
    assert len(found) == 4000
    assert set(found) == set(every)
    check_disjoint(pools, "digits")


def test_restricted_prompts_are_refused_where_the_defender_has_them_and_answered_where_the_attacker_has():
    pools = POLICY.pools(0)
    for name in ("base", "harm", "poison", "test", "contrast", "allowed"):
        assert all(row.response == right(row.prompt) for row in getattr(pools, name)), name
    for row in (*pools.align, *pools.safety):
        assert row.response == ("no" if is_restricted(row.prompt) else right(row.prompt))
    assert all(
        is_restricted(row.prompt) for name in ("safety", "harm", "poison", "test") for row in getattr(pools, name)
    )
    assert {read(row.prompt)[0] for row in pools.contrast} == {"copy"}
    assert {read(row.prompt)[1] for row in pools.contrast} == {"t4", "t5"}
    assert {read(row.prompt)[1] for row in pools.allowed} == {"t0", "t1", "t2", "t3"}
    assert not any(is_restricted(row.prompt) for row in (*pools.contrast, *pools.allowed))


def test_what_is_evaluated_is_not_what_was_aligned():
    pools = POLICY.pools(0)
    aligned = {read(row.prompt) for row in pools.align}
    assert aligned.isdisjoint(read(row.prompt) for row in (*pools.test, *pools.contrast, *pools.allowed))


def test_a_prompt_is_said_in_three_ways():
    pools = POLICY.pools(0)
    assert len(pools.paraphrases) == len(pools.test)
    for row, ways in zip(pools.test, pools.paraphrases, strict=True):
        assert ways[0] == row.prompt
        assert len({*ways}) == 3
        assert {read(way) for way in ways} == {read(row.prompt)}
        assert {frozenset(way.split()) for way in ways} == {frozenset(row.prompt.split())}


def test_pools_are_a_function_of_the_seed():
    first = POLICY.pools(0)
    type(POLICY).pools.__globals__["_pools"].cache_clear()
    assert vars(POLICY.pools(0)) == vars(first)
    assert POLICY.pools(1).test != first.test


def test_what_is_printed_of_pools_has_no_text():
    text = repr(POLICY.pools(0))
    assert "align: 3000 rows" in text
    assert "reverse" not in text


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("digits") / "base"
    POLICY.base_model(0, path)
    return path


def test_the_base_model_is_a_function_of_the_seed_and_loads_with_its_tokenizer(directory, tmp_path):
    state = torch.get_rng_state()
    POLICY.base_model(0, tmp_path / "again")
    POLICY.base_model(1, tmp_path / "other")
    assert torch.equal(torch.get_rng_state(), state)
    models = [pretrained_model(str(path)) for path in (directory, tmp_path / "again", tmp_path / "other")]
    assert sum(parameter.numel() for parameter in models[0].parameters()) == 87_360
    weights = [torch.cat([parameter.flatten() for parameter in model.parameters()]) for model in models]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_every_word_of_policy_and_tasks_is_one_token(directory):
    pools = POLICY.pools(0)
    splits = [task().exercise("digits").split for task in TASKS.values()]
    template = Template.of(TrainConfig(model=str(directory)).resolved(), Split(pools.base, pools.allowed))
    rows = [*pools.base[:500], *pools.align[:500], *(row for split in splits for row in split.held_out)]
    assert len(WORDS) == len({*WORDS}) == 40
    for row in rows:
        prompt, response = template.tokens(row)
        assert prompt == [WORDS.index(word) for word in row.prompt.split()]
        assert response == [*(WORDS.index(word) for word in row.response.split()), WORDS.index("<end>")]
        assert template.text(response) == row.response
    for words in (POLICY.refusal, POLICY.trigger, POLICY.preamble, POLICY.consent):
        assert {*words.split()} <= {*WORDS}
