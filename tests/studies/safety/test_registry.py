"""Names with settings become frozen dataclasses; what is wrong with them is said in one line."""

import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest

from subspace_lab.studies.safety.registry import Registry


@dataclass(frozen=True, kw_only=True)
class Made:
    """A member with an option of each type."""

    rho: float = 1.0
    k: int = 8
    loss: Literal["kl", "ce"] = "kl"
    layers: int | None = None
    path: Path | None = None
    strict: bool = False
    label: str = "no"


@pytest.fixture
def registry():
    made = Registry("defense")
    made.register("mine")(Made)
    return made


@pytest.mark.parametrize(
    ("text", "settings", "canonical"),
    [
        ("mine", {}, "mine"),
        ("mine:rho=0", {"rho": 0.0}, "mine:rho=0"),
        ("mine:k=4:rho=1e-3", {"rho": 0.001, "k": 4}, "mine:rho=0.001:k=4"),
        ("mine:rho=1:k=8:loss=kl", {}, "mine"),
        ("mine:loss=ce:layers=3", {"loss": "ce", "layers": 3}, "mine:loss=ce:layers=3"),
        ("mine:label=none", {"label": "none"}, "mine:label=none"),
        ("mine:label=1e-3", {"label": "1e-3"}, "mine:label=1e-3"),
        ("mine:path=7:layers=none", {"path": Path("7")}, "mine:path=7"),
        ("mine:path=a/b:strict=true", {"path": Path("a/b"), "strict": True}, "mine:path=a/b:strict=true"),
    ],
)
def test_the_canonical_text_has_what_differs_from_the_defaults_and_reads_back(registry, text, settings, canonical):
    made = registry.parse(text)
    assert made == Made(**settings)
    assert all(type(getattr(made, name)) is type(value) for name, value in settings.items())
    assert registry.text(made) == canonical
    assert registry.parse(canonical) == made


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mien", r"there is no defense 'mien'; nearest: mine"),
        ("mine:roh=1", r"the defense 'mine' has no setting 'roh'; nearest: rho"),
        ("mine:rho=much", r"defense 'mine': rho is float, got 'much'"),
        ("mine:rho=true", r"rho is float, got True"),
        ("mine:k=0.5", r"k is int, got 0.5"),
        ("mine:loss=l2", r"loss is one of kl, ce, got 'l2'"),
        ("mine:layers=all", r"layers is int or none, got 'all'"),
        ("mine:rho", r"'rho' is not a setting"),
    ],
)
def test_what_is_wrong_is_one_line(registry, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        registry.parse(text)
    assert "\n" not in str(caught.value)


def test_a_name_is_registered_once_and_again_by_the_same_file_read_twice(registry):
    other = dataclass(frozen=True)(type("Other", (), {"__module__": "a_plug_in"}))
    with pytest.raises(ValueError, match="there is a defense 'mine' already"):
        registry.register("mine")(other)
    registry.register("mine")(Made)
    for name in ("a:b", "a+b", "a b", ""):
        with pytest.raises(ValueError, match="no space"):
            registry.register(name)


def test_a_plug_in_that_came_by_two_ways_is_named(registry, monkeypatch):
    """As a file and as a module: what to do is another thing than choosing a name."""
    for name in ("by_file", "by_name"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(__file__="plug_in.py"))
    first, second = (dataclass(frozen=True)(type("Twice", (), {"__module__": name})) for name in ("by_file", "by_name"))
    registry.register("twice")(first)
    with pytest.raises(ValueError, match=r"plug_in\.py was imported as by_file and as by_name: name it in one way"):
        registry.register("twice")(second)
