"""How far a trial is, read from a file that is being written."""

import pytest

from subspace_lab.experiments.progress import last_line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ('{"step": 0, "loss": 3.0}\n', {"step": 0, "loss": 3.0}),
        ('{"step": 0}\n{"step": 1}\n{"ste', {"step": 1}),
        ("{broken\n", {}),
        ('{"step": 8}\n' * 3000 + '{"step": 9}\n', {"step": 9}),
    ],
)
def test_the_last_whole_line(tmp_path, text, expected):
    (tmp_path / "metrics.jsonl").write_text(text)
    assert last_line(tmp_path / "metrics.jsonl") == expected


def test_of_no_file_there_is_none(tmp_path):
    assert last_line(tmp_path / "metrics.jsonl") == {}
