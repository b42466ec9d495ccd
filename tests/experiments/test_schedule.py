"""Trials run when they are missing and their parents are complete, and leave a typed outcome however they end."""

from __future__ import annotations

import json

import pytest

from subspace_lab.experiments.executors.base import Ended
from subspace_lab.experiments.executors.choose import executor_of, places, workers_of
from subspace_lab.experiments.executors.local import LocalExecutor
from subspace_lab.experiments.outcome import outcome_path, read_outcome
from subspace_lab.experiments.recipe import WEIGHTS, content_of
from subspace_lab.experiments.schedule import is_complete, run_missing
from subspace_lab.experiments.trial import Trial
from tests.experiments.toy import Forked

PLUGIN = "tests.experiments.toy"
RECIPE = f"{PLUGIN}:add"


def trial(value, *, parents=(), **more):
    config = {"value": value, **more}
    return Trial({"method": f"v{value}"}, RECIPE, config, content_of(RECIPE, config, plugins=[PLUGIN]), parents)


def run(path, trials, **settings):
    with Forked() as executor:
        run_missing(path, trials, executor, plugins=[PLUGIN], metric="eval_total", **settings)
    return [read_outcome(path, one.name) for one in trials]


def begun(path, one):
    file = path / one.name / "begun"
    return len(file.read_text().splitlines()) if file.exists() else 0


def test_waves_of_parents_and_children_and_nothing_twice(tmp_path, monkeypatch):
    base = trial(1)
    middle = trial(10, parents=(base.hash,))
    last = [trial(100, parents=(middle.hash,)), trial(200, parents=(middle.hash,))]
    trials = [*last, middle, base]  # whatever the order in which they are named
    found = run(tmp_path, trials)
    assert [one.metrics["eval_total"] for one in found] == [111.0, 211.0, 11.0, 1.0]
    assert [one.weights is not None for one in found] == [False, False, True, True]
    assert found[0].parents == {middle.hash: found[2].weights}
    run(tmp_path, trials)
    assert [begun(tmp_path, one) for one in trials] == [1, 1, 1, 1]


def test_other_weights_of_a_parent_run_its_children_again(tmp_path):
    base, other = trial(1), trial(5)
    child, aside = trial(10, parents=(base.hash,)), trial(20, parents=(other.hash,))
    trials = [base, child, other, aside]
    run(tmp_path, trials)
    names = {one.hash: one.name for one in trials}
    assert all(is_complete(tmp_path, one, names) for one in trials)
    outcome = json.loads(outcome_path(tmp_path, base.name).read_text())
    outcome_path(tmp_path, base.name).write_text(json.dumps({**outcome, "weights": "0" * 64}))
    assert [is_complete(tmp_path, one, names) for one in trials] == [True, False, True, True]
    run(tmp_path, trials)
    assert [begun(tmp_path, one) for one in (aside, other)] == [1, 1]
    assert begun(tmp_path, child) == 1  # its directory was emptied before it began again
    assert read_outcome(tmp_path, child.name).attempts == 2


def test_a_child_of_a_trial_that_fails_waits(tmp_path):
    base = trial(1, fails=True)
    child = trial(10, parents=(base.hash,))
    failed, waiting = run(tmp_path, [base, child])
    assert (failed.status, failed.reason) == ("failed", "ValueError: it fails")
    assert (waiting.status, waiting.attempts) == ("pending", 0)
    assert begun(tmp_path, child) == 0


@pytest.mark.parametrize(
    ("how", "status", "reason"),
    [
        ({"fails": True}, "failed", "ValueError: it fails"),
        ({"diverges": True}, "diverged", "at step 3"),
        ({"exits": True}, "failed", "ended with status 3 and left no record"),
        (
            {"killed": True, "path": "/nowhere"},
            "killed",
            "killed by SIGKILL, perhaps by the system because memory ran out",
        ),
    ],
)
def test_how_a_trial_ends_is_told_by_type(tmp_path, how, status, reason):
    one = trial(1, **how)
    (found,) = run(tmp_path, [one])
    assert (found.status, found.reason, found.attempts) == (status, reason, 1)
    run(tmp_path, [one])  # the study decides which of them are asked for again
    assert read_outcome(tmp_path, one.name).attempts == 2


def test_killed_trials_go_on_with_the_same_command(tmp_path):
    one = trial(3, killed=True, path=str(tmp_path))
    assert run(tmp_path / "trials", [one])[0].status == "killed"
    (tmp_path / "spared").touch()
    assert run(tmp_path / "trials", [one])[0].metrics == {"eval_total": 3.0}


def test_a_word_in_a_message_decides_nothing(tmp_path):
    """Whether a process was killed is a type, not the beginning of a text."""
    from subspace_lab.experiments.outcome import Outcome
    from subspace_lab.experiments.schedule import _without_word

    assert _without_word(Outcome(), Ended("failed", "killed by a colleague"), 1).status == "failed"
    assert _without_word(Outcome(), Ended("killed", "went home"), 1).status == "killed"


def test_each_worker_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert places(3, gpus=2) == [{"CUDA_VISIBLE_DEVICES": k} for k in ("0", "1", "0")]
    assert places(2, gpus=0) == [{}, {}]
    assert workers_of("local", None, gpus=4) == 4
    assert workers_of("local", 16, gpus=4) == 16
    assert workers_of("slurm", None, gpus=4) is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert places(2, gpus=2) == [{"CUDA_VISIBLE_DEVICES": "5"}, {"CUDA_VISIBLE_DEVICES": "7"}]


def test_one_server_serves_all_batches_and_gives_each_worker_its_device(tmp_path):
    with executor_of(tmp_path / "never", workers=1):
        pass
    assert not (tmp_path / "never").exists()
    batches = [
        [trial(value, waits=0.3) for value in range(4)],
        [trial(9, exits=True), trial(10, killed=True, path="/")],
    ]
    with LocalExecutor(tmp_path, [{"CUDA_VISIBLE_DEVICES": k} for k in ("5", "7")]) as executor:
        for batch in batches:
            run_missing(tmp_path, batch, executor, plugins=[PLUGIN])
            server = executor._server
        assert server is executor._server
    seen = [(tmp_path / one.name / "begun").read_text().strip() for one in batches[0]]
    assert sorted(seen) == ["5", "5", "7", "7"]
    ends = [read_outcome(tmp_path, one.name) for one in batches[1]]
    assert [(end.status, end.reason.split(",")[0]) for end in ends] == [
        ("failed", "ended with status 3 and left no record"), ("killed", "killed by SIGKILL"),
    ]  # fmt: skip


def test_a_plug_in_that_the_caller_does_not_name_is_not_imported(tmp_path):
    one = trial(1)
    run_missing(tmp_path, [one], Forked())
    assert "was not named" in read_outcome(tmp_path, one.name).reason
    assert not (tmp_path / one.name / WEIGHTS).exists()


def test_a_trial_that_is_named_twice_runs_once(tmp_path):
    one, same = trial(4), trial(4)
    found = run(tmp_path, [one, same])
    assert [outcome.metrics for outcome in found] == [{"eval_total": 4.0}] * 2
    assert begun(tmp_path, one) == 1
