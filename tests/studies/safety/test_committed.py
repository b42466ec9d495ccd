"""The committed page and tables of the safety study against each other, and against what the profile asks for."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

import subspace_lab as sl
from subspace_lab.studies.safety import page
from subspace_lab.studies.safety.profiles import PROFILES
from subspace_lab.studies.safety.summary import COLUMNS, summarize

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "results" / "safety"


@pytest.fixture(scope="module")
def study():
    return sl.safety.Study.open(RESULTS)


@pytest.mark.parametrize("name", ["safety", "safety_smollm"])
def test_the_page_is_what_its_tables_give(name, tmp_path):
    """It lies beside the figures, as it does here; `make pages` writes it again."""
    (tmp_path / "docs").mkdir()
    for part in ("figures", "results"):
        (tmp_path / part).symlink_to(ROOT / part)
    study = sl.safety.Study.open(ROOT / "results" / name)
    page.write(
        study.tables, tmp_path / "docs" / f"{name}.md", config=study.config, environment=study.manifest["environment"],
        data=tmp_path / "results" / name, pictures=tmp_path / "figures" / name,
    )  # fmt: skip
    written = (tmp_path / "docs" / f"{name}.md").read_text(encoding="utf-8")
    assert written.splitlines() == (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8").splitlines()


def test_the_summary_is_that_of_the_results(study):
    again = summarize(study.results).astype(COLUMNS)
    pd.testing.assert_frame_equal(again.reset_index(drop=True), study.summary.reset_index(drop=True), rtol=1e-6)


def test_everything_that_the_profile_asks_for_is_there(study):
    """Counted by hand from the axes, not by the enumeration that made the jobs."""
    config = PROFILES["cpu"]
    results = study.results[study.results["judge"] == "exact"]
    tuned = results[results["stage"].isin(["tuned", "repaired"])]
    wide = len(config.tasks) * len(config.threats) * 2 * len(config.defenses) * config.seeds
    narrow = len(config.threats) * 5 * 2 * 4 * config.seeds
    assert len(tuned) == wide + narrow
    assert {*tuned["status"]} <= {"complete", "unsupported"}
    assert set(tuned.loc[tuned["defense"].isin(["safegrad", "safegrad:rho=0"]), "regime"]) == set(tuned["regime"])
    assert study.config.seeds == tuned["seed"].nunique() == 3


def test_no_text_of_a_reply_is_kept(study):
    assert not (RESULTS / "outcomes.parquet").exists()
    assert not {"reply", "prompt"} & {column for name in ("results", "steps") for column in getattr(study, name)}


def test_a_number_that_is_changed_is_seen(study, tmp_path):
    """The page and the summary hang on the tables: another attack success is another verdict or another number."""
    copy = shutil.copytree(RESULTS, tmp_path / "copy")
    tuned = study.results["stage"].isin(["tuned", "repaired"])
    study.results.assign(asr=study.results["asr"].where(~tuned, 0.5)).to_parquet(copy / "results.parquet")
    changed = sl.safety.Study.open(copy)
    assert not summarize(changed.results)["asr"].equals(study.summary["asr"])
