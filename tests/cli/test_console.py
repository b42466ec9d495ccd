"""What the commands print, in processes of their own: any encoding, width and reader, and names that mean harm."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import subspace_lab as sl
from subspace_lab.cli.console import one_line
from subspace_lab.cli.suggest import abbreviated, sharing
from tests.cli.helpers import Command
from tests.runs_by_hand import noise, write_run

SCRIPT = Path(sys.executable).with_name("subspace-lab")
HOSTILE = "blocks.0.a\x1b[2J\u202eb\r\x07\u2066c<b>.weight"


@pytest.fixture(scope="module")
def analysed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its plan has intervals at most and at least what was measured, and a name that steers terminals."""
    run = write_run(tmp_path_factory.mktemp("run") / "run", noise({"blocks.0.w.weight": (6, 9), HOSTILE: (4, 5)}))
    sl.analysis.analyze(run)
    return run.path


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    clean = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "PYTHONIOENCODING", "LANG"}}
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, env={**clean, "OMP_NUM_THREADS": "1", **environment}
    )


@pytest.mark.parametrize(
    ("encoding", "environment"),
    [
        ("ascii", {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}),
        ("cp1252", {"PYTHONIOENCODING": "cp1252:strict", "COLUMNS": "1"}),
        ("utf-8", {"COLUMNS": "many"}),
    ],
)
def test_a_plan_is_printed_in_any_encoding_and_width(
    analysed: Path, encoding: str, environment: dict[str, str]
) -> None:
    done = shell(f"'{SCRIPT}' recommend '{analysed}'", **environment)
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode(encoding)
    assert ("≤, ≥: the answer" if encoding == "utf-8" else "<=, >=: the answer") in text
    assert not {"\x1b", "\u202e", "\u2066", "\r", "\x07"} & set(text)
    assert f"saved {analysed / 'plan.json'}" in text


def test_names_steer_no_terminal_and_turn_no_page(analysed: Path) -> None:
    done = shell(f"'{SCRIPT}' recommend '{analysed}'", COLUMNS="200")
    assert r"a\x1b[2J\u202eb\r\x07\u2066c<b>" in done.stdout.decode()
    assert shell(f"'{SCRIPT}' report '{analysed}'").returncode == 0
    page = (analysed / "report.html").read_text(encoding="utf-8")
    assert not {"\x1b", "\u202e", "\u2066", "\x07"} & set(page)
    assert r"a\x1b[2J\u202eb\r\x07\u2066c&lt;b&gt;" in page


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        ("{script} recommend {run} >&-", 0, ""),
        ("{script} verify {run} >&- 2>&- <&-", 0, ""),
        ("{script} verify {run}/none >&- 2>&-", 2, ""),
        ("{script} verify {run} >/dev/full", 2, "error: [Errno 28] No space left on device"),
        ("{script} --help >/dev/full", 2, "error: [Errno 28] No space left on device"),
        ("{script} recommend {run} | head -n 1; exit ${{PIPESTATUS[0]}}", (0, 141), ""),
        ("{script} verify {run}/none 2>&1 | true; exit ${{PIPESTATUS[0]}}", 2, ""),
    ],
)
def test_closed_and_full_outputs_have_the_right_status(analysed: Path, line: str, status, said: str) -> None:
    done = shell(line.format(script=SCRIPT, run=analysed), PYTHONUNBUFFERED="1")
    assert done.returncode in (status if isinstance(status, tuple) else (status,)), done.stderr
    assert done.stderr.decode().startswith(said.format(run=analysed))
    assert done.stderr.count(b"\n") == bool(said)


@pytest.mark.parametrize(
    "arguments",
    ["verify {long}", "train {tmp}/x --optimizer {long}", "compare {tmp}/x --methods adamw --lrs {long}"],
)
def test_a_long_mistake_is_one_line_that_can_be_read(arguments: str, command: Command, tmp_path: Path) -> None:
    done = command(*arguments.format(long="\x1b[31mx\u202e" * 14_000, tmp=tmp_path).split())
    assert (done.status, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert line.startswith("error: ")
    assert len(line) < 3000
    assert line.isprintable()


def test_the_end_of_a_long_message_says_what_to_do() -> None:
    assert one_line("cannot read\n" + "x" * 100_000 + "; do this").endswith("x; do this")


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        ("train {tmp}/x --learning-rate 3", "Did you mean --lr?"),
        ("train {tmp}/x --learning_rate=3", "Did you mean --lr?"),
        ("train {tmp}/x --max-steps 3", "Did you mean --steps?"),
        ("compare {tmp}/x --methods adamw --lrs 1 --learning-rates 3", "Did you mean --lrs?"),
        ("analyze {tmp}/x --hessian-eigenvalue-count 3", "Did you mean --eigenvalues?"),
        ("verify {tmp}/x --quickly", "See subspace-lab verify --help."),
        ("memroy", 'Did you mean "memory"?'),
    ],
)
def test_a_wrong_flag_says_what_was_meant(arguments: str, meant: str, command: Command, tmp_path: Path) -> None:
    done = command(*arguments.format(tmp=tmp_path).split())
    assert (done.status, done.out) == (2, "")
    assert meant in done.err
    assert done.err.count("\n") == 1


def test_nothing_near_is_not_guessed() -> None:
    assert abbreviated("--zebra", ["--rank", "--z"]) is sharing("--zebra", ["--rank", "--lr"]) is None
