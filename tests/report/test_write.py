"""The page as a file: self-contained, escaped, and frank about what is missing."""

import html
import json
import re
from html.parser import HTMLParser

import pytest

from subspace_lab import analysis
from subspace_lab.figures import FIGURES
from subspace_lab.report import write_report
from subspace_lab.runs import Run, RunError
from tests.figures.synthetic import edit_manifest, layer_row, make_run, transformer


class Page(HTMLParser):
    """Collects tags with their attributes, and the text outside of style and script."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.words, self._open = [], [], []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        if not {"style", "script"} & set(self._open[-1:]):
            self.words.append(data)


@pytest.fixture(scope="module")
def page(reports):
    return Page(reports("llama").read_text(encoding="utf-8"))


def test_everything_is_in_the_one_file(reports, page):
    text = reports("llama").read_text(encoding="utf-8")
    for tag, attributes in page.tags:
        assert tag not in {"img", "iframe", "object", "embed", "base"}
        assert "src" not in attributes
        assert all(not value.startswith(("http", "//", "file")) for value in attributes.values() if value)
    assert "@import" not in text
    assert "url(http" not in text
    assert [attributes["href"] for tag, attributes in page.tags if tag == "link"] == ["data:,"]


def test_ids_are_unique_and_links_lead_somewhere(page):
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {attributes["href"][1:] for tag, attributes in page.tags if tag in {"a", "use"}} <= set(ids)


def test_head_findings_figures_and_settings_are_there(cases, page):
    for words in ("56 matrices of 7 kinds in 8 blocks", "20 steps from 0 to 190, every 10", "its Gram matrix"):
        assert words in page.text
    for finding in analysis.findings(cases("llama")):
        assert finding.title in page.text
        assert " ".join(finding.text.split()) in page.text
    for module in FIGURES.values():
        assert module.TITLE in page.text
        assert module.CAPTION in page.text
    for words in ("capture.every", "torch", "subspace-lab analyze", "None: every captured gradient was finite"):
        assert words in page.text


def test_every_figure_comes_for_wide_and_for_narrow_screens(page):
    classes = [attributes.get("class") for tag, attributes in page.tags if tag == "div"]
    assert classes.count("wide") == classes.count("narrow") == len(FIGURES)
    assert sum(tag == "svg" for tag, _ in page.tags) == 2 * len(FIGURES)


@pytest.mark.parametrize("case", ["stats", "one snapshot", "no depth"])
def test_what_is_left_out_is_said_with_its_reason(reports, case):
    page = Page(reports(case).read_text(encoding="utf-8"))
    assert "Left out" in page.text
    drawn = sum(tag == "figure" for tag, _ in page.tags)
    assert 0 < drawn < len(FIGURES)
    assert len(re.findall(r'<dl class="absent">.*?</dl>', reports(case).read_text(encoding="utf-8"), re.DOTALL)) == 1


def test_names_are_text_and_nothing_else(cases, reports):
    text = reports("markup").read_text(encoding="utf-8")
    page = Page(text)
    for layer in cases("markup").manifest["layers"]:
        assert layer["name"] in page.text
        assert html.escape(layer["name"], quote=False).replace("'", "&#39;").replace('"', "&#34;") in text
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert not any(tag == "b" for tag, _ in page.tags)


def test_warnings_name_what_was_lost(reports):
    page = Page(reports("markup").read_text(encoding="utf-8"))
    assert "1 gradient with NaN or Inf entries left out: ../../etc/passwd (1 step)" in page.text
    assert "1 layer had no gradient in some captured steps: ../../etc/passwd (1 step)" in page.text


def test_an_interrupted_run_and_a_torn_snapshot_are_warned_of(tmp_path):
    run = make_run(tmp_path / "run", layers=transformer(1, {"q_proj": (32, 32)}), steps=(0, 10))
    (run.path / "snapshots" / "step_00000010.safetensors").write_bytes(b"torn")
    page = Page(write_report(edit_manifest(run, finished=False)).read_text(encoding="utf-8"))
    assert "The run is not complete" in page.text
    assert "step_00000010.safetensors" in page.text


def test_a_run_that_was_not_analysed_is_one_line(tmp_path):
    run = make_run(tmp_path / "run", layers=[layer_row("w", -1, "w", (8, 8))], steps=(0,))
    for table in (run.path / "analysis").iterdir():
        table.unlink()
    with pytest.raises(RunError, match=r"was not analysed yet; run: subspace-lab analyze"):
        write_report(run)
    assert not (run.path / "report.html").exists()


def test_an_analysis_of_energy_alone_still_gives_a_report(tmp_path):
    run = make_run(tmp_path / "run", layers=transformer(2, {"q_proj": (32, 32)}), steps=(0, 10))
    for table in (run.path / "analysis").iterdir():
        if table.stem != "energy":
            table.unlink()
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert "There are no findings" in page.text
    assert FIGURES["energy_over_training"].TITLE in page.text
    assert "There is no table of the angles analysis yet" in page.text


def test_a_report_is_replaced_whole_and_leaves_nothing_else(tmp_path):
    run = make_run(tmp_path / "run", layers=[layer_row("w", -1, "w", (8, 8))], steps=(0,))
    before = {path.name for path in run.path.iterdir()}
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first
    assert {path.name for path in run.path.iterdir()} == before | {"report.html"}


@pytest.mark.parametrize(
    "config", [None, [], "words", {"preset": "<i>x</i>", "lr": None}, {"lr": float("nan"), "nested": {"a": [1]}}]
)
def test_any_configuration_can_be_shown(tmp_path, config):
    run = make_run(tmp_path / "run", layers=[layer_row("w", -1, "w", (8, 8))], steps=(0,), config=config)
    page = Page(write_report(Run.open(run.path)).read_text(encoding="utf-8"))
    assert not any(tag == "i" for tag, _ in page.tags)


def test_control_characters_in_names_do_not_stop_the_report(tmp_path):
    run = make_run(tmp_path / "run", layers=[layer_row("w\x1b[31m", -1, "k\x07\u202e", (8, 8))], steps=(0,))
    assert "<h1>run</h1>" in write_report(run).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "value"), [("loss", "n/a"), ("loss", [2.0]), ("eval_loss", {}), ("eval_loss", 10**400)]
)
def test_metrics_that_are_not_numbers_are_one_line(tmp_path, name, value):
    run = make_run(tmp_path / "run", steps=(0,))
    metrics = run.path / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + json.dumps({"step": 9, "loss": 2.0, name: value}) + "\n")
    with pytest.raises(RunError, match=f"metrics.jsonl, step 9: {name} is .*, not a number; remove the line"):
        write_report(run)
