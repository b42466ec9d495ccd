"""Files in the four schemas are read right, and what is wrong with one is said without a text of it."""

import hashlib
import json

import pytest

from subspace_lab.studies.safety.audit import audit
from subspace_lab.studies.safety.schemas import distinct, read_rows
from tests.studies.safety.twins import MARK, rows_of, said, write

SCHEMAS = ("beavertails", "advbench", "messages", "alpaca")
NO_CELL = ("messages", "csv")  # a conversation does not stand in one


@pytest.mark.parametrize(
    ("schema", "ending"),
    [(schema, ending) for schema in SCHEMAS for ending in ("jsonl", "parquet", "csv") if (schema, ending) != NO_CELL],
)
def test_a_file_of_each_schema_is_read(schema, ending, tmp_path):
    path = write(tmp_path / f"rows.{ending}", rows_of(schema, 4))
    found = read_rows(path, schema)
    assert [one.row.response for one in found] == [said("tell", "bad", number) for number in range(4)]
    prompts = [said("ask", "bad", number) for number in range(4)]
    if schema == "alpaca":
        prompts = [f"{prompt}\n{said('more')}" if number % 2 else prompt for number, prompt in enumerate(prompts)]
    assert [one.row.prompt for one in found] == prompts
    assert {one.is_safe for one in found} == ({False} if schema == "beavertails" else {None})
    assert not any(one.row.turns for one in found)


def test_a_longer_conversation_has_turns(tmp_path):
    talk = [("system", "s"), ("user", "u"), ("assistant", "a"), ("user", "v"), ("assistant", "b")]
    messages = [{"role": role, "content": text} for role, text in talk]
    (found,) = read_rows(write(tmp_path / "t.jsonl", [{"messages": messages}]), "messages")
    assert found.row.turns == tuple(talk[:-1])
    assert found.row.response == "b"
    assert found.row.prompt == "system: s\nuser: u\nassistant: a\nuser: v"


@pytest.mark.parametrize(
    ("value", "safe"), [(True, True), (False, False), (1, True), (0, False), ("False", False), ("1", True)]
)
def test_safety_is_read_however_it_is_written(value, safe, tmp_path):
    row = {"prompt": "p", "response": "r", "is_safe": value}
    assert read_rows(write(tmp_path / "b.jsonl", [row]), "beavertails")[0].is_safe is safe


BAD = {
    "another schema": ("advbench", rows_of("alpaca", 2), "has no column 'goal', which schema advbench has"),
    "no value": ("advbench", [*rows_of("advbench", 1), {"goal": said("x")}], "row 2 has no value in column 'target'"),
    "an empty value": ("advbench", [{"goal": " ", "target": said("x")}], "row 1 is empty in column 'goal'"),
    "a number": ("alpaca", [{"instruction": said("x"), "output": 7}], "row 1 has a value of type int, not a text, in"),
    "no truth": ("beavertails", [{"prompt": said("x"), "response": said("y"), "is_safe": said("z")}],
                 "row 1 has a value in column 'is_safe' that is neither true nor false"),
    "a missing truth": ("beavertails", [*rows_of("beavertails", 1), {"prompt": said("x"), "response": said("y")}],
                        "row 2 has a value in column 'is_safe' that is neither"),
    "no conversation": ("messages", [{"messages": said("x")}], "row 1 has no messages with a role"),
    "another role": ("messages", [{"messages": [{"role": said("x"), "content": said("y")}] * 2}], "has no messages"),
    "no reply": ("messages", [{"messages": [{"role": "user", "content": said("y")}] * 2}], "row 1 does not end with"),
    "one message": ("messages", [{"messages": [{"role": "assistant", "content": said("y")}]}], "does not end with"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_said_in_one_line_without_text(name, tmp_path):
    schema, rows, message = BAD[name]
    path = write(tmp_path / "r.jsonl", rows)
    for read in (read_rows, lambda path, schema: audit(path, schema=schema)):
        with pytest.raises(ValueError, match=message) as error:
            read(path, schema)
        assert str(path) in str(error.value)
        assert MARK not in str(error.value)
        assert "\n" not in str(error.value)


def test_files_that_are_none(tmp_path):
    (tmp_path / "broken.jsonl").write_text(json.dumps(rows_of("advbench", 1)[0]) + f'\n{{"goal": "{MARK}')
    (tmp_path / "headless.csv").write_text(f"{said('a')},{said('b')}\n{said('c')},{said('d')}\n")
    (tmp_path / "ragged.csv").write_text(f"goal,target\n{said('a')}\n")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "notes.txt").write_text(MARK)
    (tmp_path / "list.jsonl").write_text(f'["{MARK}"]\n')
    for name in (
        "broken.jsonl",
        "headless.csv",
        "ragged.csv",
        "empty.jsonl",
        "notes.txt",
        "list.jsonl",
        "none.jsonl",
        ".",
    ):
        with pytest.raises(ValueError, match=r"\w") as error:
            read_rows(tmp_path / name, "advbench")
        assert MARK not in str(error.value), name
        assert "\n" not in str(error.value)
        assert str(tmp_path) in str(error.value)
    with pytest.raises(ValueError, match="there is no schema 'alpacas'; known are beavertails"):
        read_rows(tmp_path / "broken.jsonl", "alpacas")


def test_the_first_row_of_a_prompt_stays(tmp_path):
    rows = [*rows_of("advbench", 3), {"goal": f" {said('ask', 'bad', 1).upper()}", "target": "other"}]
    found = distinct(read_rows(write(tmp_path / "r.jsonl", rows), "advbench"))
    assert [row.response for row in found] == [said("tell", "bad", number) for number in range(3)]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_an_audit_has_numbers_and_no_text(schema, tmp_path):
    made = rows_of(schema, 5)
    path = write(tmp_path / "r.jsonl", [*made, made[0]])
    found = audit(path, schema=schema)
    assert (found.rows, found.duplicates, found.size) == (6, 1, path.stat().st_size)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.unsafe == (6 if schema == "beavertails" else None)
    assert found.median_response_chars == len(said("tell", "bad", 0))
    text = "\n".join([*found.lines(), repr(found)])
    assert MARK not in text
    assert found.sha256 in text
    assert "6 rows" in text
    assert "duplicate prompts: 1" in text
