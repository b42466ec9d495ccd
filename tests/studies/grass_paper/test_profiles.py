"""What a profile settles, and that nothing outside of it does."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from subspace_lab.optim import METHODS
from subspace_lab.studies.grass_paper import profiles

COMMITTED = Path(__file__).parents[3] / "results" / "grass_paper" / "evidence.json"


def plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def test_the_committed_figures_are_those_of_the_profile() -> None:
    """Settings that are left open may come and go."""

    def settled(profile: dict[str, Any]) -> dict[str, Any]:
        return {**profile, "config": {name: value for name, value in profile["config"].items() if value is not None}}

    manifest = json.loads(COMMITTED.read_text(encoding="utf-8"))
    assert settled(manifest["settings"]) == settled(plain(profiles.PROFILES["cpu"].settings))


def test_every_method_of_a_profile_is_an_optimizer() -> None:
    for profile in profiles.PROFILES.values():
        assert set(profile.methods) <= set(METHODS)
        assert profile.methods[0] == "adamw"


def test_one_more_optimizer_leaves_the_profiles_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module is read again with an optimizer that nobody has measured."""

    def read() -> dict[str, Any]:
        spec = importlib.util.find_spec("subspace_lab.studies.grass_paper.profiles")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return {name: plain(profile.settings) for name, profile in module.PROFILES.items()}

    before = read()
    monkeypatch.setitem(METHODS, "sgd", torch.optim.SGD)
    assert read() == before
