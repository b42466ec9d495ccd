"""The console script: all commands under one name, and what becomes of their errors."""

from __future__ import annotations

import os
import signal
import sys
import warnings

from cyclopts import App, CycloptsError, Group

from subspace_lab._version import __version__
from subspace_lab.cli.analyze import analyze, report, verify
from subspace_lab.cli.compare import compare
from subspace_lab.cli.console import one_line, prepare_streams, settle_streams, tell
from subspace_lab.cli.demo import demo
from subspace_lab.cli.figures import figures
from subspace_lab.cli.finetuning import finetuning
from subspace_lab.cli.memory import memory
from subspace_lab.cli.parameters import check_whole
from subspace_lab.cli.recommend import recommend
from subspace_lab.cli.safety import safety
from subspace_lab.cli.suggest import in_words
from subspace_lab.cli.train import train

app = App(
    name="subspace-lab",
    help="The laboratory for gradient subspaces: capture gradients, measure the space they live in, report.",
    version=__version__,
    group_parameters=Group("Parameters", validator=check_whole),
    suppress_keyboard_interrupt=False,  # main says how to go on
)
for _command in (train, compare, figures, finetuning, analyze, report, verify, recommend, memory, demo):
    app.command(_command)
app.command(safety)
_COMMANDS = [name for name in app if not name.startswith("-")]
_STUDIES = ("compare", "figures", "finetuning", "recommend", "safety")


def main() -> None:
    """The console script: bad input is one line on stderr and a non-zero exit, never a traceback.

    Set SUBSPACE_LAB_TRACEBACK=1 to see where an error came from.

    Raises:
        SystemExit: With status 2 after an error, 130 after Ctrl-C, 141 when the output was not read to its end.
    """
    prepare_streams()
    _end_beside_others(sys.argv[1:])
    warnings.formatwarning = lambda message, *_, **__: f"note: {one_line(message)}\n"
    try:
        app(sys.argv[1:], exit_on_error=False, print_error=False)
        if unread := settle_streams():
            raise unread
    except BrokenPipeError:  # whoever read the output has seen enough
        settle_streams()
        raise SystemExit(128 + signal.SIGPIPE) from None
    except KeyboardInterrupt as interrupt:
        tell(one_line(interrupt) or "interrupted")
        raise SystemExit(130) from None
    except Exception as error:
        if os.environ.get("SUBSPACE_LAB_TRACEBACK") or not _expected(error):
            raise
        settle_streams()
        tell(f"error: {one_line(in_words(error))}")
        raise SystemExit(2) from None


def _end_beside_others(words: list[str]) -> None:
    """Of several processes that torchrun began only a training makes use: one says so, and all end."""
    number = os.environ.get("WORLD_SIZE", "1")
    if number == "1" or not words or words[0] not in _COMMANDS or words[0] == train.__name__:
        return
    if os.environ.get("RANK", "0") != "0":
        raise SystemExit(0)  # with another status torchrun might end the first one before its line
    advice = f" and give --processes {number}" if words[0] in _STUDIES else ""
    tell(f"error: torchrun began {number} processes, and subspace-lab {words[0]} is of one; leave torchrun out{advice}")
    raise SystemExit(2)


def _expected(error: Exception) -> bool:
    from subspace_lab.runs import RunError

    return isinstance(error, RunError | ValueError | OSError | CycloptsError | ModuleNotFoundError)
