"""What decides an outcome decides the hash of a job, and nothing else does."""

from __future__ import annotations

import dataclasses
import shutil

import pytest

from subspace_lab.experiments.plugins import import_plugins
from subspace_lab.studies.safety import content
from subspace_lab.studies.safety.jobs import jobs_of
from subspace_lab.studies.safety.kinds import POLICIES
from subspace_lab.studies.safety.threats.clean import CleanThreat
from tests.studies.safety.registered import forget_plugins
from tests.studies.safety.studies import PLUGIN, TINY, kinds

CACHED = ("hash_of_file", "pools_of", "pool_hash", "tests_hash", "exercise_of", "held_out_hash", "split_of")


def forget():
    for name in CACHED:
        getattr(content, name).cache_clear()


@pytest.fixture
def mine(tmp_path):
    """A copy of the plug-in of the tests, to be edited."""
    forget()
    file = shutil.copy(PLUGIN, tmp_path / "mine.py")
    import_plugins([str(file)])
    yield tmp_path / "mine.py"
    forget_plugins()
    forget()


def hashes(config=TINY):
    forget()
    return {one.hash: one.name for one in jobs_of(config).trials}


def changed(before, after):
    return kinds(name for key, name in after.items() if key not in before)


EVERYTHING = ["aligned", "base", *["evaluated"] * 8, *["repaired"] * 2, *["tuned"] * 4]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"seeds": 1}, []),
        ({"plugins": ()}, []),
        ({"judges": ("prefix", "exact")}, ["evaluated"] * 8),
        ({"judges": ("exact",)}, ["evaluated"] * 8),
        ({"probe_every": 1}, [*["evaluated"] * 6, *["repaired"] * 2, *["tuned"] * 4]),
        ({"steps": 5}, [*["evaluated"] * 6, *["repaired"] * 2, *["tuned"] * 4]),
        ({"rows": 21}, [*["evaluated"] * 6, *["repaired"] * 2, *["tuned"] * 4]),
        ({"align_lr": 2e-3}, ["aligned", *["evaluated"] * 7, *["repaired"] * 2, *["tuned"] * 4]),
        ({"base_steps": 7}, EVERYTHING),
        ({"precision": "bfloat16"}, EVERYTHING),
        ({"policy": "tiny:size=7"}, EVERYTHING),
    ],
)
def test_a_change_is_a_new_job_for_what_depends_on_it(mine, change, expected):
    assert changed(hashes(), hashes(dataclasses.replace(TINY, **change))) == expected


def test_the_source_of_a_plugin_is_content_of_what_uses_it(mine):
    """The policy is of the plug-in, so that all is made again; with a shipped policy only the defense's own tuning."""
    shipped = dataclasses.replace(TINY, policy="digits")
    before, before_shipped = hashes(), hashes(shipped)
    mine.write_text(mine.read_text() + "\n# another line\n")
    assert changed(before, hashes()) == EVERYTHING
    after = hashes(shipped)
    assert changed(before_shipped, after) == [*["evaluated"] * 4, *["repaired"] * 2, *["tuned"] * 2]
    new = [name for key, name in after.items() if key not in before_shipped]
    assert all("counted" in name or "halved" in name for name in new)


def test_a_revision_of_a_shipped_class_is_content_of_what_uses_it(mine, monkeypatch):
    before = hashes()
    monkeypatch.setattr(CleanThreat, "revision", 2)
    after = hashes()
    new = [name for key, name in after.items() if key not in before]
    assert kinds(new) == [*["evaluated"] * 3, "repaired", *["tuned"] * 2]
    assert all("clean" in name for name in new)


def test_a_row_of_a_pool_is_content_of_what_sees_it(mine, monkeypatch):
    policy = POLICIES["tiny"]
    original, before = policy.pools, hashes()

    def with_another(pool):
        def pools(self, seed):
            found = original(self, seed)
            rows = getattr(found, pool)
            other = dataclasses.replace(rows[0], response="0 0 0 0")
            return dataclasses.replace(found, **{pool: [other, *rows[1:]]})

        return pools

    expected = {
        "safety": [*["evaluated"] * 6, *["repaired"] * 2, *["tuned"] * 4],  # drawn from, or looked at
        "harm": [*["evaluated"] * 4, *["repaired"] * 2, *["tuned"] * 2],  # looked at where there is no defense
        "test": ["evaluated"] * 8,
        "allowed": ["evaluated"] * 8,
        "align": ["aligned", *["evaluated"] * 7, *["repaired"] * 2, *["tuned"] * 4],
        "base": EVERYTHING,
    }
    for pool, jobs in expected.items():
        monkeypatch.setattr(policy, "pools", with_another(pool))
        assert changed(before, hashes()) == jobs, pool
    unprobed = dataclasses.replace(TINY, probe_every=None)
    monkeypatch.setattr(policy, "pools", original)
    before = hashes(unprobed)
    monkeypatch.setattr(policy, "pools", with_another("safety"))
    assert changed(before, hashes(unprobed)) == [*["evaluated"] * 2, *["tuned"] * 2]  # those of the defense that draws


def test_where_a_plugin_lies_is_no_content(mine, tmp_path):
    before = hashes()
    forget_plugins()
    (tmp_path / "deeper").mkdir()
    import_plugins([str(shutil.copy(mine, tmp_path / "deeper" / "moved.py"))])
    assert hashes() == before


def test_the_chat_template_of_a_pretrained_base_is_content_of_everything(mine, tmp_path):
    """It decides what a model is trained and asked with; a file beside that is no part of the model decides nothing."""
    model = tmp_path / "model"
    POLICIES["tiny"]().base_model(0, model)
    config = dataclasses.replace(TINY, base=str(model))
    before = hashes(config)
    (model / "README.md").write_text("what it is")
    assert hashes(config) == before
    (model / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    with_template = hashes(config)
    assert changed(before, with_template) == EVERYTHING
    (model / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] }} {% endfor %}")
    assert changed(with_template, hashes(config)) == EVERYTHING
