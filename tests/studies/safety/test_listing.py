"""Which policies, tasks, threats and judges there are, and that listing them is cheap."""

import subprocess
import sys

import pytest

import subspace_lab.studies.safety as safety
from subspace_lab.studies.safety.kinds import JUDGES, POLICIES, TASKS, THREATS

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
