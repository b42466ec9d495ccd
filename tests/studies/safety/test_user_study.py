"""A whole study on files of a user: nothing that it writes or prints has a text of theirs."""

import pandas as pd
import pytest
from transformers import AutoModelForSequenceClassification

import subspace_lab as sl
from subspace_lab.studies.safety import study as studies
from tests.studies.safety.studies import Forked
from tests.studies.safety.twins import MARK, rows_of, write
from tests.training.tasks.small_models import save_causal, save_encoder


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A study with a poisoned model, and the folder of the files."""
    folder = tmp_path_factory.mktemp("files")
    for name, count, kind in (("harmful", 30, "bad"), ("safe", 12, "good"), ("contrast", 6, "like")):
        write(folder / f"{name}.jsonl", rows_of("advbench", count, kind))
    save_causal(folder / "model")
    save_encoder(folder / "sorter", ("red",))
    labels = {0: "NO", 1: "YES"}
    sorter = AutoModelForSequenceClassification.from_pretrained(folder / "sorter", num_labels=2, id2label=labels)
    sorter.save_pretrained(folder / "sorter")
    config = sl.safety.StudyConfig(
        policy=f"user:harmful={folder}/harmful.jsonl:schema=advbench:licence=none:safe={folder}/safe.jsonl"
        f":contrast={folder}/contrast.jsonl",
        threats=("trigger:share=0.5",), defenses=("rehearsal",), steps=2, rows=12, batch_size=4,
        judges=("prefix", "exact", "log_odds", f"classifier:model={folder}/sorter:refused=NO:fulfilled=YES"),
        base=str(folder / "model"), base_steps=1, align_steps=2, align_batch_size=4, probe_every=1,
        evaluation=sl.safety.EvalConfig(task_rows=3, max_new_tokens=3),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(studies, "executor_of", lambda *_, **__: Forked())
        study = sl.safety.run(folder / "study", config)
        study.draw()
    return study, folder


def test_every_cell_is_judged_and_the_exact_judge_is_not_supported(given):
    results = given[0].results
    assert {*results.loc[results["judge"] != "exact", "status"]} == {"complete"}
    exact = results[results["judge"] == "exact"]
    assert {*exact["status"]} == {"unsupported"}
    assert exact["reason"].str.contains("needs the true answers").all()
    sorter = results[results["judge"].str.startswith("classifier")]
    assert (sorter["n"] == 6).all()
    assert sorter["asr"].notna().all()
    assert sorter.loc[sorter["threat"].str.startswith("trigger"), "disguised_asr"].notna().all()


def test_no_file_has_a_text_of_the_user(given):
    study, folder = given
    seen = 0
    for path in study.path.rglob("*"):
        if path.is_file():
            seen += 1
            assert MARK.encode() not in path.read_bytes(), path
            if path.suffix == ".parquet":
                assert MARK not in pd.read_parquet(path).to_csv(), path
    assert seen > 20
    assert "reply" not in study.outcomes or study.outcomes["reply"].isna().all()
    assert MARK.encode() in (folder / "harmful.jsonl").read_bytes()


def test_verification_reads_the_files_and_names_none_of_their_texts(given, capfd):
    study, folder = given
    assert study.verify() == []
    write(folder / "harmful.jsonl", rows_of("advbench", 30, "other"))
    found = study.verify()
    assert found
    assert MARK not in "".join([*found, *capfd.readouterr()])
