"""Text from files, datasets and the standard library."""

import json
import sysconfig
from pathlib import Path

import pandas as pd
import pytest

from subspace_lab.training.sources import find_source

ROWS = ["one\ntwo", "three", "vier ümlaut"]


def documents(data) -> list[str]:
    return list(find_source(str(data)).documents())


def test_text_files_by_path_and_by_glob_in_order(tmp_path):
    for name, content in [("b.txt", "b"), ("a.md", "a ü"), ("deep/c.txt", "c")]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    assert documents(tmp_path / "a.md") == ["a ü"]
    assert documents(tmp_path / "**" / "*.*") == ["a ü", "b", "c"]


def test_a_file_whose_name_looks_like_a_glob_is_a_file(tmp_path):
    (tmp_path / "a[1].txt").write_text("x")
    assert documents(tmp_path / "a[1].txt") == ["x"]


@pytest.mark.parametrize("rows", [[{"text": row, "title": "no"} for row in ROWS], [{"n": 1, "body": r} for r in ROWS]])
def test_jsonl_and_parquet_rows_are_documents(tmp_path, rows):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pd.DataFrame(rows).to_parquet(tmp_path / "rows.parquet")
    assert documents(tmp_path / "rows.jsonl") == ROWS
    assert documents(tmp_path / "rows.parquet") == ROWS


def test_a_local_dataset_is_streamed_by_datasets(tmp_path):
    (tmp_path / "data").mkdir()
    for shard in range(2):
        table = pd.DataFrame({"text": [f"{shard}-{row}" for row in range(3)]})
        table.to_parquet(tmp_path / "data" / f"train-0000{shard}-of-00002.parquet")
    source = find_source(f"hf:{tmp_path}")
    assert list(source.documents()) == ["0-0", "0-1", "0-2", "1-0", "1-1", "1-2"]
    table.to_parquet(tmp_path / "data" / "train-00002-of-00003.parquet")
    assert find_source(f"hf:{tmp_path}").identity != source.identity


def test_equal_content_has_one_identity(tmp_path):
    for name, content in [("a.txt", "same"), ("b.txt", "same"), ("c.txt", "other")]:
        (tmp_path / name).write_text(content)
    a, b, c = (find_source(str(tmp_path / name)).identity for name in ("a.txt", "b.txt", "c.txt"))
    assert a == b != c


def test_the_standard_library_without_tests_and_installed_packages():
    root = Path(sysconfig.get_path("stdlib"))
    texts = documents("stdlib")
    assert (root / "argparse.py").read_text(encoding="utf-8") in texts
    assert (root / "json" / "decoder.py").read_text(encoding="utf-8") in texts
    assert sum(map(len, texts)) > 5e6
    left_out = [Path(pytest.__file__), *root.glob("test/test_a*.py"), *root.glob("idlelib/idle_test/test_a*.py")]
    assert not {path.read_text(encoding="utf-8") for path in left_out} & {*texts}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("nothing.txt", "'.*nothing.txt' does not exist; give a file, a glob"),
        ("*.nothing", r"matches no file; check the pattern"),
        ("", "is a directory; give a glob such as"),
        ("binary.txt", r"binary.txt is not UTF-8 text \(invalid start byte at byte 2\)"),
        ("zero.txt", r"zero.txt is not text \(a zero byte at character 1\)"),
        ("broken.jsonl", "broken.jsonl' cannot be read: "),
        ("broken.parquet", "broken.parquet' cannot be read: "),
        ("fields.jsonl", r"has no field 'text' and 2 other fields of text \(a, b, n\); rename one"),
        ("numbers.jsonl", r"has no field 'text' and 0 other fields of text \(n\)"),
    ],
)
def test_bad_data_are_one_line(tmp_path, data, message):
    (tmp_path / "binary.txt").write_bytes(b"ok\xff\xfe")
    (tmp_path / "zero.txt").write_bytes(b"a\0b")
    (tmp_path / "broken.jsonl").write_text('{"text": "good"}\n{"text": \n')
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 but not really")
    (tmp_path / "fields.jsonl").write_text('{"a": "x", "b": "y", "n": 1}\n')
    (tmp_path / "numbers.jsonl").write_text('{"n": 1}\n')
    with pytest.raises(ValueError, match=message) as caught:
        documents(tmp_path / data)
    assert "\n" not in str(caught.value)


def test_a_dataset_that_is_not_there_is_one_line(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="data 'hf:nobody/nothing' cannot be read: ") as caught:
        documents("hf:nobody/nothing")
    assert "\n" not in str(caught.value)
