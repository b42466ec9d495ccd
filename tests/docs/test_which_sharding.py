"""The output on the page is the command's."""

from __future__ import annotations

import pytest

from tests.docs.pages import ROOT, blocks, run_command

PAGE = ROOT / "docs" / "how-to" / "which-sharding.md"


def test_the_output_on_the_page_is_what_the_command_prints(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    (command, printed) = (text for _, language, text in blocks(PAGE) if language in {"shell", "text"})
    run_command(command.strip())
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == printed.splitlines()
