"""A comparison whose trainings are shared by several processes: the same comparison."""

import dataclasses

import pytest

from subspace_lab.runs import Run
from subspace_lab.studies.optimizers import compare
from tests.studies.optimizers.conftest import by_label


@pytest.mark.slow
def test_the_trainings_are_those_of_one_process_and_stay_however_they_were_trained(finished, settings, tmp_path):
    path, given = tmp_path / "sweep", {"lrs": [1e-3], "seeds": 1}
    config = settings(update_interval=None)
    found = compare(path, ["adamw"], config=dataclasses.replace(config, sharding="fsdp"), processes=2, **given)
    one, two = by_label(finished.results), by_label(found.results)
    (label,) = two.index
    assert two.loc[label, "status"] == "complete"
    assert two.loc[label, "trial"] == one.loc[label, "trial"]
    assert two.loc[label, "eval_loss"] == pytest.approx(one.loc[label, "eval_loss"], rel=1e-4)
    assert two.loc[label, "state_bytes"] == one.loc[label, "state_bytes"]
    run = Run.open(path / "cells" / two.loc[label, "cell"])
    assert (run.manifest["config"]["sharding"], run.manifest["environment"]["processes"]) == ("fsdp", 2)
    again = compare(path, ["adamw"], config=config, **given)
    assert again.results.equals(found.results)


def test_what_does_not_fit_is_refused_before_anything_is_written(settings, tmp_path):
    path, given = tmp_path / "sweep", {"lrs": [1e-3], "seeds": 1}
    with pytest.raises(ValueError, match=r"^sharding='fsdp' has no effect on one process; give processes"):
        compare(path, ["grasswalk"], config=settings(sharding="fsdp"), **given)
    with pytest.raises(ValueError, match=r"^batch_size=2 is not a multiple of the 4 processes$"):
        compare(path, ["grasswalk"], config=settings(), processes=4, **given)
    with pytest.raises(ValueError, match=r"^workers=2 has no use here: 2 processes share a training"):
        compare(path, ["grasswalk"], config=settings(), processes=2, workers=2, **given)
    assert not path.exists()
