"""What cannot be combined has one clear reason; rows of a defense are counted; a plug-in is a few lines."""

import hashlib
import random
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from subspace_lab.studies.safety.chained import chain_prepare
from subspace_lab.studies.safety.kinds import Pools
from subspace_lab.studies.safety.stages import DEFENSES, chain, defense
from subspace_lab.studies.safety.support import Conditions, unsupported
from tests.studies.safety.bench import Bench
from tests.studies.safety.test_contract import SHIPPED


def policy(system_prompt="", **pools):
    rows = {"base": (), "align": "r", "safety": "r", "harm": "r", "poison": "r", "test": "r", "contrast": "r"}
    given = Pools(**{**rows, "allowed": "r", **pools})
    return SimpleNamespace(pools=lambda seed: given, system_prompt=system_prompt)


@pytest.mark.parametrize(
    ("text", "conditions", "pools", "reason"),
    [
        ("booster", {}, {"harm": ()}, "booster needs harm rows; the policy has none"),
        ("lox+safegrad", {}, {"safety": ()}, "safegrad needs safety rows; the policy has none"),
        ("resta", {"lacks": {"base"}}, {}, "resta needs base; the study has none"),
        ("safegrad", {"optimizer": "badam"}, {}, "safegrad compares gradients of the whole model; badam has one block"),
        ("panacea", {"optimizer": "badam"}, {}, "panacea compares gradients of the whole model"),
        ("none", {"optimizer": "galore", "is_lora": True}, {}, "adapters are trained by adamw here, not by galore"),
        ("vaccine", {"accumulation": 2}, {}, "vaccine needs a step of one batch; there are 2 micro-batches"),
        ("t_vaccine", {"accumulation": 4}, {}, "t_vaccine needs a step of one batch; there are 4"),
        ("repnoise", {"accumulation": 2}, {}, "repnoise needs a step of one batch"),
        ("rehearsal", {"processes": 2}, {}, "rehearsal acts in a step of one process; there are 2"),
        ("lisa+safeinstruct", {}, {}, "lisa and safeinstruct both choose the rows of a step"),
        ("safegrad+constrained_sft", {}, {}, "constrained_sft has a loss of its own .* write it before safegrad"),
        ("booster+vaccine", {}, {}, "vaccine has a loss of its own"),
        ("none", {}, {}, None),
        ("resta", {"processes": 2, "optimizer": "badam", "accumulation": 8}, {}, None),
        ("rehearsal", {"optimizer": "badam"}, {}, None),
        ("booster", {"optimizer": "badam"}, {}, None),
        ("vaccine+booster+lox+constrained_sft+safegrad+lisa+resta+safelora", {"is_lora": True}, {}, None),
        ("safegrad", {}, {"harm": ()}, None),
    ],
)
def test_a_pair_that_cannot_be_has_a_reason(text, conditions, pools, reason):
    import re

    found = unsupported(chain(text), Conditions(**conditions), policy(**pools), None)
    assert found is None if reason is None else re.match(reason, found)


def test_a_system_prompt_is_asked_for_where_a_defense_needs_one(monkeypatch):
    monkeypatch.setattr(DEFENSES["resta"], "needs", frozenset({"system_prompt"}))
    assert (
        unsupported(defense("resta"), Conditions(), policy(), None)
        == "resta needs a system prompt; the policy has none"
    )
    assert unsupported(defense("resta"), Conditions(), policy("Be brief."), None) is None


@pytest.mark.parametrize("name", SHIPPED)
def test_every_defense_goes_with_full_tuning_by_any_optimizer_but_badam_and_with_adapters(name):
    for conditions in (Conditions(), Conditions(optimizer="grasswalk"), Conditions(is_lora=True)):
        assert unsupported(defense(name), conditions, policy(), None) is None


def hashes(rows):
    return [hashlib.sha256(repr((one.row, one.kind)).encode()).hexdigest() for one in rows]


def test_safety_rows_are_added_to_those_of_the_user_in_exact_number():
    bench = Bench()
    before = hashes(bench.user)
    bench.prepare(chain("safeinstruct:rows=6"))
    after, drawn = hashes(bench.user), [one for one in bench.user if one.kind == "safety"]
    assert sorted(h for h in after if h in before) == sorted(before)
    assert len(after) == len(before) + 6
    assert len(drawn) == len({*hashes(drawn)}) == 6
    assert {one.row for one in drawn} <= {one.row for one in bench.pools["safety"]}
    assert after != [*before, *hashes(drawn)]  # they are mixed
    assert [one.kind for one in bench.user if one.kind != "safety"] == ["task"] * 12


def test_which_safety_rows_and_where_is_a_function_of_the_seed():
    made = []
    for seed in (0, 0, 1):
        bench = Bench(seed=seed)
        random.seed(seed)
        bench.prepare(chain("safeinstruct:rows=6"))
        made.append(hashes(bench.user))
    assert made[0] == made[1] != made[2]


def test_more_safety_rows_than_there_are_is_an_error():
    bench = Bench()
    with pytest.raises(ValueError, match=r"^safeinstruct:rows=100 are more than the 10 safety rows; ask for fewer$"):
        chain_prepare(chain("safeinstruct"), bench.run())


def test_listing_defenses_does_not_import_torch():
    code = (
        "import sys; from subspace_lab.studies.safety import DEFENSES, chain;"
        "print(len([(c.stage, c.cost, c.arxiv, c.needs, c.__doc__) for c in DEFENSES.values()]),"
        "chain('lox+safegrad').text,"
        "sorted({'torch', 'numpy', 'transformers', 'pandas'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "17 lox+safegrad []"


PLUG_IN = '''
from dataclasses import dataclass
from typing import ClassVar

from subspace_lab.studies import safety


@safety.register_defense("nearest_sign")
@dataclass(frozen=True, kw_only=True)
class NearestSign(safety.Defense):
    """Entries of the user's gradient that safety is against are left out; 2 passes."""

    stage: ClassVar = "train"
    needs: ClassVar = frozenset({"safety"})
    keep: float = 0.0

    def gradient(self, step):
        return [u * (u * s >= 0) + self.keep * u for u, s in zip(step.user(), step.safety(), strict=True)]
'''


def test_a_plug_in_is_less_than_twenty_lines(tmp_path, monkeypatch):
    assert len(PLUG_IN.strip().splitlines()) < 20
    (tmp_path / "nearest_sign_plug_in.py").write_text(PLUG_IN)
    monkeypatch.syspath_prepend(tmp_path)
    __import__("nearest_sign_plug_in")
    assert DEFENSES.text(defense("nearest_sign:keep=0.5")) == "nearest_sign:keep=0.5"
    bench, plain = Bench(), Bench()
    bench.take(chain("nearest_sign"), 0, 2)
    plain.take(chain("none"), 0, 2)
    assert any(not torch.equal(p, q) for p, q in zip(bench.parameters, plain.parameters, strict=True))
    assert bench.passes == 4
