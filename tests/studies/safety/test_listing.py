"""Which policies, tasks, threats and judges there are, and that listing them is cheap."""

import subprocess
import sys
from dataclasses import dataclass

import pytest

import subspace_lab.studies.safety as safety
from subspace_lab.studies.safety.kinds import JUDGES, POLICIES, TASKS, THREATS, Marked, Policy, Pools, Threat
from subspace_lab.training.tasks.rows import Row

NAMES = {
    "policy": (POLICIES, ("codenames", "digits", "user")),
    "task": (TASKS, ("arithmetic", "instructions", "questions", "sentiment")),
    "threat": (THREATS, ("clean", "identity", "poison", "pure", "trigger")),
    "judge": (JUDGES, ("classifier", "exact", "log_odds", "prefix", "rubric")),
}


@pytest.mark.parametrize("kind", NAMES)
def test_the_shipped_names(kind):
    registry, names = NAMES[kind]
    assert (*registry,) == names
    assert registry.kind == kind
    assert all(registry[name].__doc__.strip().partition("\n")[0].endswith((".", ";")) for name in names)


def test_listing_imports_no_heavy_library():
    program = (
        "import sys; import subspace_lab.studies.safety as s; "
        "names = [*s.POLICIES, *s.TASKS, *s.THREATS, *s.JUDGES, *s.DEFENSES]; "
        "[s.POLICIES.parse(name) for name in ('digits', 'codenames')]; [s.THREATS.parse(name) for name in s.THREATS]; "
        "print(len(names), *(name for name in ('torch', 'transformers', 'numpy', 'pandas') if name in sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    count, *heavy = found.stdout.split()
    assert int(count) >= 17
    assert heavy == []


def test_names_of_the_package_are_what_they_say():
    for name in safety.__all__:
        assert getattr(safety, name) is not None
    assert safety.consistency([[True, True], [False, True]]) == (0.5, 0.625)
    split = safety.make_split("sentiment", "digits", "clean", rows=3, seed=0)
    assert isinstance(split, safety.Split)


def test_what_a_plug_in_registers_goes_through_splits_and_pools():
    @dataclass(frozen=True, kw_only=True)
    class Vowels(Policy):
        form = "english"
        vowel: str = "a"

        @property
        def refusal(self):
            return "Never."

        def pools(self, seed):
            names = ("align", "safety", "harm", "poison", "test", "contrast", "allowed")
            rows = {name: [Row(f"{name} {self.vowel} {seed} {n}", str(n)) for n in range(30)] for name in names}
            return Pools(base=(), **rows)

    @dataclass(frozen=True, kw_only=True)
    class Last(Threat):
        count: int = 2

        def apply(self, task, poison, policy, draw):
            kept, put = task[self.count :], poison[: self.count]
            return [*(Marked(row, "task") for row in kept), *(Marked(row, "poison") for row in put)]

    @dataclass(frozen=True, kw_only=True)
    class Forgets(Last):
        def apply(self, task, poison, policy, draw):
            return super().apply(task[1:], poison, policy, draw)

    for registry, name, cls in ((POLICIES, "vowels", Vowels), (THREATS, "last", Last), (THREATS, "forgets", Forgets)):
        registry.register(name)(cls)
    try:
        split = safety.make_split("sentiment", "vowels:vowel=e", "last:count=3", rows=10, seed=5)
        poison = [row.prompt for row, kind in zip(split.rows, split.kinds, strict=True) if kind == "poison"]
        assert sorted(poison) == ["poison e 5 0", "poison e 5 1", "poison e 5 2"]
        with pytest.raises(ValueError, match="the threat forgets made 9 rows of 10; it has to keep their number"):
            safety.make_split("sentiment", "vowels", "forgets", rows=10, seed=0)
    finally:
        for registry, name in ((POLICIES, "vowels"), (THREATS, "last"), (THREATS, "forgets")):
            registry._names.pop(registry._classes.pop(name))
