"""The command line: parse, call, print."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from cyclopts import App, ArgumentCollection, CoercionError, CycloptsError, Group, Parameter

from subspace_lab._version import __version__
from subspace_lab.training.config import DEFAULT_PRESET, TrainConfig

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from subspace_lab.optim import MemoryReport
    from subspace_lab.runs import Run


def _check_whole(arguments: ArgumentCollection) -> None:
    """Refuse 1.5 where a whole number is meant, which would be rounded."""
    for argument in arguments:
        hint = argument.hint
        whole = int in (hint, *get_args(hint)) or any(int in get_args(part) for part in get_args(hint))
        for token in argument.tokens if whole else ():
            if "." in token.value:
                raise CoercionError(argument=argument, token=token, target_type=int)


app = App(
    name="subspace-lab",
    help="The laboratory for gradient subspaces: capture gradients, measure the space they live in, report.",
    version=__version__,
    group_parameters=Group("Parameters", validator=_check_whole),
    suppress_keyboard_interrupt=False,  # main says how to go on
)

RunDir = Annotated[Path, Parameter(name="RUN_DIR")]
Config = Annotated[TrainConfig, Parameter(name="*", consume_multiple=True, negative_iterable=())]


@app.command
def train(run_dir: RunDir, /, config: Config | None = None, *, resume: bool = False) -> None:
    """Train a small language model while its gradients are captured.

    Parameters
    ----------
    run_dir
        Where the run goes; must not hold anything yet.
    config
        Settings of the training and of the capture.
    resume
        Go on with an interrupted run, from its last checkpoint.
    """
    from subspace_lab.runs.errors import in_shell
    from subspace_lab.training import train as start

    if config is not None and config.optimizer_options:
        config = replace(config, optimizer_options={k: _plain(v) for k, v in config.optimizer_options.items()})
    start(run_dir, config, resume=resume)
    print(f"next: subspace-lab analyze {in_shell(run_dir)}")


def _plain(value: object) -> object:
    """What a word of the command line stands for: a number, true, false, none, or itself."""
    words = {"true": True, "false": False, "none": None}
    if not isinstance(value, str) or value.lower() in words:
        return words.get(str(value).lower(), value)
    for number in (int, float):
        with suppress(ValueError):
            return number(value)
    return value


@app.command
def analyze(
    run_dir: RunDir,
    /,
    *,
    ranks: Annotated[tuple[int, ...] | None, Parameter(consume_multiple=True, negative_iterable=())] = None,
    rank: int | None = None,
    lags: Annotated[tuple[int, ...], Parameter(consume_multiple=True)] = (1, 2, 4, 8, 16),
    top: int = 20,
    workers: int | None = None,
) -> None:
    """Measure a run: tables, figures, report.html and what they say.

    Parameters
    ----------
    run_dir
        The run directory that a capture or a training run wrote.
    ranks
        Ranks of the energy table; by default m/64 to m/2 of the median layer.
    rank
        Rank of the angles and the curvature; by default a quarter of the median m.
    lags
        Ages of stale bases, in captures.
    top
        How many singular values of the curvature tangent.
    workers
        Layers worked on at once, by default one per core.
    """
    from subspace_lab.runs import Run

    run = Run.open(run_dir, write=True)
    _analyze(run, ranks=ranks, rank=rank, lags=lags, top=top, workers=workers)
    _conclude(run)


@app.command
def report(run_dir: RunDir, /) -> None:
    """Draw the figures and write report.html again, from the tables of an analysed run.

    Parameters
    ----------
    run_dir
        The run directory.
    """
    from subspace_lab.runs import Run

    run = Run.open(run_dir, write=True)
    run.table("energy")  # a run that was not analysed is refused before anything is drawn
    print(_report(run))


@app.command
def verify(run_dir: RunDir, /) -> None:
    """Check every snapshot of a run against its checksum.

    Parameters
    ----------
    run_dir
        The run directory.
    """
    from subspace_lab.analysis.words import count
    from subspace_lab.runs import Run

    run = Run.open(run_dir)
    number = run.verify()
    verdict = {0: "nothing to check", 1: "it is sound"}.get(number, "all of them sound")
    print(f"{run_dir}: {count(number, 'snapshot')}, {verdict}")


@app.command
def recommend(run_dir: RunDir, /) -> None:
    """Print a rank and a refresh interval for every layer, with the numbers they rest on, and save plan.json.

    Parameters
    ----------
    run_dir
        The run directory.
    """
    from rich.table import Table
    from rich.text import Text

    from subspace_lab.analysis import recommend as plan_of
    from subspace_lab.analysis.words import count
    from subspace_lab.runs import Run

    plan = plan_of(Run.open(run_dir, write=True))
    path = run_dir / "plan.json"
    plan.save(path)
    table = Table(title=f"from {count(plan.steps, 'captured step')}", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("layer", overflow="fold")
    for name in ("rank", "energy", "noise", "interval", "kept"):
        table.add_column(name, no_wrap=True)
    for row in plan.layers:
        interval = "unknown" if row.update_interval is None else f"{_SIGNS[row.bound]} {row.update_interval}".strip()
        shares = ("" if share is None else _percent(share) for share in (row.fraction, row.null_noise, row.retained))
        energy, noise, kept = shares
        table.add_row(Text(row.layer), f"{_SIGNS[row.rank_bound]} {row.rank}".strip(), energy, noise, interval, kept)
    _show(table)
    print()
    print("rank: the smallest measured one with 90% of the largest energy above noise")
    print("energy, noise: share of the gradient's energy that it holds, and of noise's")
    print("interval: steps for which a stale basis keeps half of what it held above r/m")
    print("kept: what it keeps then; ≤, ≥: the answer may lie beyond what was measured")
    if noisy := sum(not row.above_noise for row in plan.layers):
        print(f"note: at no rank told from noise: {noisy} of {count(len(plan.layers), 'layer')}; of these the smallest")
        print("measured rank is given, which rests on nothing")
    print(f"saved {path}")


_SIGNS = {"": "", "at most": "≤", "at least": "≥", "only": "only"}


def _percent(share: float) -> str:
    text = f"{share:.0%}"
    return text if text != "-0%" else "0%"


@app.command
def memory(
    *,
    preset: str = DEFAULT_PRESET,
    rank: int | None = None,
    chosen: Annotated[tuple[str, ...] | None, Parameter("--methods", consume_multiple=True)] = None,
    weights_dtype: Literal["float32", "bfloat16"] = "float32",
    state_dtype: Literal["float32", "bfloat16"] | None = None,
) -> None:
    """Print the bytes that training a preset takes with each optimizer, beside AdamW; nothing is built.

    Parameters
    ----------
    preset
        A LLaMA size.
    rank
        Rank of the matrices of attention and MLP; by default the published one, else a quarter of the width.
    chosen
        Optimizers to compare with AdamW; all of them by default.
    weights_dtype
        Of weights and gradients.
    state_dtype
        Of bases and low-rank moments; float32 by default. AdamW, here as in torch, keeps the weights' dtype.
    """
    import torch

    from subspace_lab.optim import METHODS, memory_report, method_named
    from subspace_lab.training import parameter_shapes
    from subspace_lab.training import preset as preset_named

    size, dtype = preset_named(preset), getattr(torch, weights_dtype)
    adamw, *others = METHODS.values()
    kinds = dict.fromkeys([adamw, *(others if chosen is None else map(method_named, chosen))])
    shapes, used = parameter_shapes(size), size.usual_rank if rank is None else rank
    states: dict[str, Any] = {"state_dtype": state_dtype} if state_dtype else {}
    reports = [
        memory_report(shapes, kind, rank=used, dtype=dtype, **({} if kind is adamw else states)) for kind in kinds
    ]
    first, origin = reports[0], ""
    if rank is None:
        origin = " (published)" if size.rank else " (a quarter of the width)"
    print(f"{preset}: {first.weights // dtype.itemsize:,} parameters in {weights_dtype}")
    print(f"rank {used}{origin} for attention and MLP; embeddings, head, norms full-rank")
    print(f"weights {first.weights:,} bytes, gradients {first.gradients:,} bytes\n")
    _show(_memory_table(reports, wide=_console().width >= 100))
    print("\nstates: moments and the like; bases: of the subspaces; both stay between steps")
    print("refresh: held for a moment while the largest matrix gets its new subspace")
    print("total: all of these, weights and gradients; activations are not counted")


def _memory_table(reports: list[MemoryReport], *, wide: bool) -> Table:
    """Exact bytes, one row per method; where there is room with the totals in other words."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("bytes", no_wrap=True)
    for name in ("states", "bases", "refresh", "total", *(("total, GB", "of AdamW's") if wide else ())):
        table.add_column(name, justify="right", no_wrap=True)
    for report in reports:
        exact = (report.states, report.bases, report.refresh_workspace, report.total)
        share = (f"{report.total / 1e9:.3f}", f"{report.total / reports[0].total:.0%}") if wide else ()
        table.add_row(report.method, *(f"{number:,}" for number in exact), *share)
    return table


def _console() -> Console:
    """As wide as the terminal; 120 columns in a pipe, or as COLUMNS says."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120)


def _show(table: Table) -> None:
    console = _console()
    with console.capture() as text:  # a console has a way of its own with whoever stops reading
        console.print(table)
    print(text.get(), end="")


@app.command
def demo(run_dir: RunDir = Path("runs/demo"), /, *, steps: int = 200) -> None:
    """Train a small LLaMA on the source text of Python's standard library, analyse its gradients, write the report.

    It takes some minutes, and at 200 steps about 400 MB of disk, which it tells in the end.

    Parameters
    ----------
    run_dir
        Where the run goes; a demo that is there already is resumed or analysed again.
    steps
        Optimizer steps.
    """
    from subspace_lab.runs import Run
    from subspace_lab.runs.manifest import MANIFEST
    from subspace_lab.training import train as start

    config = TrainConfig(steps=steps, every=10, eval_every=50)
    there = (run_dir / MANIFEST).exists()
    if there:
        _check_same_demo(run_dir, config)
    if not (there and Run.open(run_dir).manifest.get("finished")):
        start(run_dir, config, resume=there)
    run = Run.open(run_dir, write=True)
    _analyze(run)
    _conclude(run, most=3, disk=True)


def _check_same_demo(run_dir: Path, config: TrainConfig) -> None:
    from subspace_lab.runs import RunError
    from subspace_lab.training import stored_config

    try:
        config.matched(stored_config(run_dir))
    except ValueError as error:
        raise RunError(f"{run_dir} holds another run ({error}); choose another directory for this one") from error


def _analyze(run: Run, *, workers: int | None = None, **arguments: Any) -> None:
    """All tables, with one layer per core and one thread per layer: small eigenproblems do not thread well."""
    from concurrent.futures import ThreadPoolExecutor

    import torch

    from subspace_lab.analysis import analyze as measure
    from subspace_lab.analysis.arguments import check_positive

    num_workers = check_positive("workers", (os.cpu_count() or 1) if workers is None else workers)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(num_workers) as executor:
            measure(run, executor=executor, **arguments)
    finally:
        torch.set_num_threads(threads)


def _conclude(run: Run, *, most: int | None = None, disk: bool = False) -> None:
    from subspace_lab.analysis import findings

    told = _report(run)  # first, since whoever reads the output may stop reading
    found = findings(run)
    for finding in found[:most]:
        print(f"\n{finding.title}\n  {finding.text}")
    if not found:
        print("\nno findings: no captured gradient is finite and other than zero")
    print()
    if disk:
        print(_disk(run.path))
    print(told)


def _disk(run_dir: Path) -> str:
    from subspace_lab.runs.errors import in_shell

    parts = ", ".join(f"{part} {_megabytes(run_dir / part)}" for part in ("snapshots", "checkpoints"))
    return (
        f"disk: {_megabytes(run_dir)} MB ({parts}); to free it: rm -r {in_shell(run_dir)}\n"
        "for a smaller one: subspace-lab train with --keep topk:64, or with a larger --every"
    )


def _megabytes(directory: Path) -> int:
    return round(sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()) / 1e6)


def _report(run: Run) -> str:
    from subspace_lab.figures import draw_all
    from subspace_lab.report import write_report

    figures = draw_all(run)
    return f"{len(figures)} figure files in {run.path / 'figures'}\nreport: {write_report(run)}"


def main() -> None:
    """The console script: bad input is one line on stderr and a non-zero exit, never a traceback.

    Set SUBSPACE_LAB_TRACEBACK=1 to see where an error came from.

    Raises:
        SystemExit: With status 2 after an error, 130 after Ctrl-C, 141 when the output was not read to its end.
    """
    warnings.formatwarning = lambda message, *_, **__: f"note: {message}\n"
    try:
        app(sys.argv[1:], exit_on_error=False, print_error=False)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has seen enough; the rest of it must not fail at the exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None
    except KeyboardInterrupt as interrupt:
        print(str(interrupt) or "interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except Exception as error:
        if os.environ.get("SUBSPACE_LAB_TRACEBACK") or not _expected(error):
            raise
        print("error:", *str(error).splitlines(), file=sys.stderr)
        raise SystemExit(2) from None


def _expected(error: Exception) -> bool:
    from subspace_lab.runs import RunError

    return isinstance(error, RunError | ValueError | OSError | CycloptsError | ModuleNotFoundError)
