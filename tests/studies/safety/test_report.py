"""The report of a study from tables by hand: all of it there, nothing fetched, nothing executed."""

import re

import pytest

from subspace_lab.studies.safety.claims import CLAIMS
from subspace_lab.studies.safety.figures.all import FIGURES
from subspace_lab.studies.safety.reading import Tables
from subspace_lab.studies.safety.report import write_report
from tests.studies.safety import by_hand

CONFIG = {"policy": "digits", "tasks": ["sentiment"], "steps": 150, "base": None, "plugins": []}
EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def tables():
    made = by_hand.tables(seeds=2, regimes=("adamw",), threats={"clean": 0.0, "poison:share=0.3": 0.3})
    renamed = [table.replace({"defense": {"resta": EVIL}}) for table in (made.results, made.summary)]
    return Tables(renamed[0], made.steps, made.subspaces, made.terms, renamed[1])


@pytest.fixture(scope="module")
def page(tables, tmp_path_factory):
    directory = tmp_path_factory.mktemp("study")
    write_report(directory, tables, config=CONFIG, environment={"processor": "a CPU", "platform": "Linux"})
    return (directory / "report.html").read_text(encoding="utf-8")


def test_every_model_figure_claim_and_term_is_in_it(page, tables):
    for cell in filter(None, tables.results["cell"].unique()):
        assert f'<th scope="row">{cell}</th>' in page
    for name, one in FIGURES.items():
        assert f'<figure id="{name}"' in page
        assert one.title in page
    for claim in CLAIMS:
        verdict = "not measured" if claim.name == "Projected steps" else "(supported|refuted|inconclusive)"
        assert re.search(rf"<h3 id=.claim-\d.>{claim.name}: {verdict}</h3>", page), "one optimizer, nothing to compare"
    assert "2 threats, 1 optimizer, 7 defenses, 2 seeds" in page
    assert "<dd>48 of 48 evaluated</dd>" in page


def test_every_claim_has_a_verdict_where_optimizers_can_be_compared(tmp_path):
    made = by_hand.default()
    page = write_report(tmp_path, made, config=CONFIG, environment={}).read_text(encoding="utf-8")
    for claim in CLAIMS:
        assert re.search(rf"<h3 id=.claim-\d.>{claim.name}: supported</h3>", page)


def test_numbers_of_the_headline_are_those_of_the_summary(page, tables):
    row = tables.summary.query("defense == 'safegrad' and share == 0.3").iloc[0]
    low, high = (min(1, max(0, row[name])) for name in ("asr_low", "asr_high"))
    assert f'data-value="{row["asr"]:.2f}">{row["asr"]:.2f} [{low:.2f}, {high:.2f}]<' in page
    first = page.index("poison:share=0.3</th>")
    assert first < page.index("clean</th>"), "the strongest threat comes first"


def test_what_a_reader_has_to_know_is_said(page):
    assert "In 2 cells of 13 no learning rate keeps the task" in page
    assert "unsupported: panacea needs harm rows; the policy has none (panacea with adamw; 1 cell)" in page
    assert "There is one seed" not in page


@pytest.mark.parametrize(("broken", "said"), [((1,), "1 of 4801 replies"), ((2, 3), "5 of 4805 replies")])
def test_replies_on_which_the_judge_broke_are_counted_and_trainings_that_failed_are_not(tables, tmp_path, broken, said):
    results, summary = tables.results.copy(), tables.summary.copy()
    summary["failed"] = 7
    results.loc[results.index[results["judge"] == "exact"][: len(broken)], "failed"] = broken
    results.loc[results["judge"] == "prefix", "failed"] = 9
    changed = Tables(results, tables.steps, tables.subspaces, tables.terms, summary)
    page = write_report(tmp_path, changed, config=CONFIG, environment={}).read_text(encoding="utf-8")
    assert f"The judge exact broke on {said}, which count in no share" in page
    assert "broke on" not in write_report(tmp_path, tables, config=CONFIG, environment={}).read_text(encoding="utf-8")


def test_it_fetches_nothing_and_names_are_text(page):
    assert not re.search(r'(?:src|href)="(?!#|data:)', page)
    assert page.count("<script>") == 1
    assert EVIL not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_a_study_without_results_has_a_report_that_says_so(tmp_path):
    write_report(tmp_path, by_hand.empty(), config=CONFIG, environment={})
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Nothing is measured yet." in page
    assert page.count(": not measured</h3>") == len(CLAIMS)
    assert "<svg" not in page
    assert "nan" not in re.sub("<style>.*?</style>|<script>.*?</script>", "", page, flags=re.DOTALL)


def test_judges_that_cannot_tell_an_answer_are_said_to(tmp_path):
    made = by_hand.tables(seeds=2, regimes=("adamw",), threats={"clean": 0.0, "poison:share=0.3": 0.3})
    results = made.results[made.results["judge"] == "prefix"]
    summary = made.summary.assign(judge="prefix", asr=float("nan"), guarded=made.summary["seeds"] > 0)
    tables = Tables(results, made.steps.iloc[:0], made.subspaces.iloc[:0], made.terms.iloc[:0], summary)
    write_report(tmp_path, tables, config=CONFIG, environment={})
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "The judge prefix cannot tell whether a reply answers" in page
    assert "no judge can tell an answer." in page
    assert "no rate keeps the task" not in page
    assert page.count("<td>rehearsal</td>") == 2, "utility, over-refusal and cost are there all the same"
