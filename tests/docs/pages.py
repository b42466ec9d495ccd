"""The code in the documentation, ready to be run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
ON_SEVERAL = "# torchrun "  # begins a block that is for several processes
_FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> Iterator[tuple[int, str, str]]:
    """Line, language and text of the fenced blocks of a page, those in HTML comments included."""
    text = page.read_text(encoding="utf-8")
    for match in _FENCE.finditer(text):
        yield text[: match.start(3)].count("\n") + 1, match[2], match[3]


def run_page(page: Path, **namespace: Any) -> dict[str, Any]:
    """Run the python blocks of a page, and the commands of this package in its shell blocks, in their order.

    Those for several processes are left to a test that has them.
    """
    namespace["__name__"] = "__main__"
    for line, language, text in blocks(page):
        if language == "python" and not text.startswith(ON_SEVERAL):
            exec(compile("\n" * (line - 1) + text, str(page), "exec"), namespace)
        elif language == "shell":
            for command in text.splitlines():
                if command.startswith("subspace-lab "):
                    run_command(command)
    return namespace


def run_command(command: str) -> None:
    """Run a command of the console script in this process."""
    from subspace_lab.cli import app

    code = None
    try:
        app(shlex.split(command, comments=True)[1:])
    except SystemExit as end:
        code = end.code
    assert not code, f"{command} ended with {code}"
