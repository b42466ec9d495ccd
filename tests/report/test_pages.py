"""Generated parts of pages, on pages by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from subspace_lab.report.pages import fill, fill_file, fill_from
from subspace_lab.runs import RunError

BEGIN, END = "<!-- numbers: begin -->\n", "<!-- numbers: end -->\n"
OTHER = "<!-- more numbers: begin -->\nkept\n<!-- more numbers: end -->\n"
PAGE = f"# Page\n\n{OTHER}Before.\n\n{BEGIN}old\n{END}\nAfter.\n"
BROKEN = {
    "no begin": (f"a\n{END}b\n", "begin --> must be on the page once, it is there 0 times"),
    "no end": (f"a\n{BEGIN}b\n", "end --> must be on the page once, it is there 0 times"),
    "no marks": ("a\n", "begin --> must be on the page once, it is there 0 times"),
    "two begins": (f"{BEGIN}a\n{BEGIN}b\n{END}", "begin --> must be on the page once, it is there 2 times"),
    "two ends": (f"{BEGIN}a\n{END}b\n{END}", "end --> must be on the page once, it is there 2 times"),
    "wrong order": (f"{END}a\n{BEGIN}", "end --> must be below the line <!-- numbers: begin -->"),
    "of another name": (OTHER, "<!-- numbers: begin --> must be on the page once"),
    "inside a line": (f"See {BEGIN}a\n{END}", "begin --> must be on the page once, it is there 0 times"),
}


@pytest.mark.parametrize("content", ["", "new\n", "\n| a |\n|---|\n| \\1 |\n"])
def test_what_is_between_the_marks_is_replaced(content: str) -> None:
    filled = fill(PAGE, "numbers", content)
    assert filled == f"# Page\n\n{OTHER}Before.\n\n{BEGIN}{content}{END}\nAfter.\n"
    assert fill(filled, "numbers", content) == filled
    assert fill(filled, "numbers", "old\n") == PAGE


def test_a_page_may_end_with_its_mark() -> None:
    assert fill(f"{BEGIN}{END.strip()}", "numbers", "new\n") == f"{BEGIN}new\n{END.strip()}"


@pytest.mark.parametrize(("page", "problem"), BROKEN.values(), ids=BROKEN)
def test_a_page_without_its_marks_is_refused_and_left_alone(page: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"^the line [^\n]*{problem}[^\n]*$"):
        fill(page, "numbers", "new\n")
    path = tmp_path / "page.md"
    path.write_text(page, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"^{path}: the line [^\n]*{problem}[^\n]*$"):
        fill_file(path, "numbers", "new\n")
    assert path.read_text(encoding="utf-8") == page
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In UTF-8; when its replacement cannot be finished, the old one is there."""
    path = tmp_path / "page.md"
    path.write_text(PAGE, encoding="utf-8")
    fill_file(path, "numbers", "0.5 ± 0.1\n")
    assert path.read_bytes() == fill(PAGE, "numbers", "0.5 ± 0.1\n").encode()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(RunError, match=r"page\.md: No space left"):
        fill_file(path, "numbers", "new\n")
    assert path.read_bytes() == fill(PAGE, "numbers", "0.5 ± 0.1\n").encode()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("missing", ["result.json", "page.md"])
def test_a_page_is_filled_from_a_result_or_one_line_says_where_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result, page = Path("result.json"), Path("page.md")
    result.write_text('{"loss": 2.5}')
    page.write_text(PAGE)
    fill_from(result, page, "numbers", lambda found: f"loss {found['loss']}\n")
    assert page.read_text() == fill(PAGE, "numbers", "loss 2.5\n")
    Path(missing).unlink()
    with pytest.raises(SystemExit, match=f"^there is no {missing} in {tmp_path}; run this at the root of the repos"):
        fill_from(result, page, "numbers", str)
