"""The same content has the same hash, another one another, and where a trial runs is no content."""

from __future__ import annotations

import dataclasses
import hashlib
import sys

import pytest

from subspace_lab.experiments.hashing import canonical_json, content_hash, source_hash
from subspace_lab.experiments.recipe import content_of
from subspace_lab.experiments.trial import Trial
from subspace_lab.optim.options import OPTIONS
from subspace_lab.training.optimizers import settle_optimizer
from tests.training.tiny import tiny_config


def test_canonical_json_by_hand():
    assert canonical_json({"z": [1, (2.5, None)], "a": {"é": True}}) == '{"a":{"\\u00e9":true},"z":[1,[2.5,null]]}'
    assert content_hash({"a": 1}) == hashlib.sha256(b'{"a":1}').hexdigest()
    assert content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1})
    assert content_hash({"a": 1}) != content_hash({"a": 1.0})  # a count and a rate are not the same


@pytest.mark.parametrize("content", [float("nan"), float("inf"), {1: 2}, {"a": {1, 2}}, b"x", object()])
def test_what_has_no_canonical_text_is_refused(content):
    with pytest.raises(ValueError, match="content to hash"):
        canonical_json(content)


def content(text, **changes):
    config = settle_optimizer(tiny_config(text, **{"optimizer": "grasswalk", "rank": 2, **changes}).resolved())
    return content_of("train", config.to_dict())


def test_threads_paths_and_checkpoints_are_no_content(text, tmp_path):
    moved = tmp_path / "elsewhere.txt"
    moved.write_bytes(text.read_bytes())
    first = content(text)
    assert content(text, threads=3) == first
    assert content(text, checkpoint_every=5, keep_checkpoints=4) == first
    assert content(moved) == first  # the same rows in the same order
    assert content(text, lr_rest=tiny_config(text).lr) == first  # a default, said
    assert content(text, optimizer_options={"walk_step": 0.1, "zeta": 1.01}) == first


@pytest.mark.parametrize(
    "changes",
    [{"lr": 0.0123}, {"lr_rest": 0.5}, {"seed": 1}, {"steps": 11}, {"rank": 3}, {"update_interval": 7}, {"clip": None},
     {"optimizer_options": {"walk_step": 0.2}}, {"eval_batches": 3}, {"every": None}, {"optimizer": "grassjump"}],
)  # fmt: skip
def test_every_setting_is_content(text, changes):
    assert content(text, **changes) != content(text)


def test_an_option_that_came_later_is_content_only_where_it_acts(text):
    assert content(text, optimizer_options={"limiter": "after_bias_correction"}) == content(text)
    assert "limiter" not in content(text)["optimizer_options"]
    assert content(text, optimizer_options={"limiter": "before_bias_correction"}) != content(text)


def test_other_rows_are_other_content(text, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text(text.read_text()[:-200])
    assert content(other)["data_hash"] != content(text)["data_hash"]


def test_a_new_revision_of_an_optimizer_makes_new_trials(text, monkeypatch):
    from subspace_lab.optim import GrassWalk

    before = content(text)
    monkeypatch.setattr(GrassWalk, "revision", 7)
    after = content(text)
    assert (before["revision"], after["revision"]) == ({"GrassWalk": 1}, {"GrassWalk": 7})


def test_a_changed_default_makes_new_trials(text, monkeypatch):
    before = content(text)
    monkeypatch.setitem(OPTIONS, "walk_step", dataclasses.replace(OPTIONS["walk_step"], default=0.2))
    assert content(text) != before
    assert content(text, optimizer_options={"walk_step": 0.1}) == before


def test_a_changed_line_of_a_plug_in_makes_new_trials(tmp_path, monkeypatch):
    (tmp_path / "plug_one.py").write_text("X = 1\n")
    package = tmp_path / "plug_many"
    package.mkdir()
    for name in ("__init__.py", "inner.py"):
        (package / name).write_text("Y = 2\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = {name: source_hash(name) for name in ("plug_one", "plug_many")}
    (tmp_path / "plug_one.py").write_text("X = 2\n")
    (package / "inner.py").write_text("Y = 3\n")
    assert all(source_hash(name) != before[name] for name in before)
    assert not {"plug_one", "plug_many"} & set(sys.modules)  # nothing was run
    for name in ("no_such_plug", "sys", "plug_one.deeper"):
        with pytest.raises(ValueError, match="plug-in"):
            source_hash(name)


def test_labels_are_for_people():
    one = Trial({"method": "grasswalk:rank=16", "lr": 0.003, "seed": 2, "phase": "tune"}, "train", {"a": 1})
    assert one.label == "grasswalk-rank=16_lr0.003_seed2"
    assert one.name == f"{one.label}-{one.hash[:12]}"
    other = Trial({"method": "grasswalk"}, "train", {"a": 1})
    assert other.hash == one.hash
