"""Every command from end to end on a tiny run, what it says, and one line for each mistake."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import subspace_lab as sl
from subspace_lab import cli
from tests.runs_by_hand import noise, write_run
from tests.training import tiny

COMMANDS = ("train", "analyze", "report", "verify", "recommend", "memory", "demo")
TABLES = {"energy", "spectrum", "spectrum_summary", "spectrum_null", "angles", "curvature"}
SETTINGS = """
--preset tiny --steps 12 --batch-size 2 --sequence-length 16 --lr 3e-3 --precision float32 --threads 1 --every 3
--checkpoint-every 4 --eval-every 5 --eval-batches 1
"""
TINY = SETTINGS.split()
METHOD_NAMES = [
    "AdamW", "GrassWalk", "GrassJump", "SubTrack", "GaLore", "GoLore", "Fira", "LDAdam", "APOLLO", "FRUGAL",
    "OnlineSubspaceDescent", "RSO", "BAdam",
]  # fmt: skip
ROWS = [[name] for name in METHOD_NAMES]


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    status: int
    out: str
    err: str


Command = Callable[..., Outcome]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file of text; a cache of these tests alone, and the tiny size."""
    directory = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(directory / "cache"))
        patch.delenv("WORLD_SIZE", raising=False)
        patch.setitem(tiny.PRESETS, "tiny", tiny.TINY)
        yield tiny.write_text(directory / "words.txt")


@pytest.fixture
def command(world: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs a command line in this process."""
    monkeypatch.setattr("warnings.formatwarning", None)  # put back afterwards

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["subspace-lab", *map(str, arguments)])
        status = 0
        try:
            cli.main()
        except SystemExit as end:
            status = int(end.code or 0)
        return Outcome(status, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def finished(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that the command line trained."""
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    cli.app(["train", str(run_dir), "--data", str(world), *TINY], result_action="return_value")
    return run_dir


@pytest.fixture
def run_dir(finished: Path, tmp_path: Path) -> Path:
    """A copy of the trained run."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def without_drawing(patch: pytest.MonkeyPatch) -> None:
    """Figures and report take ten seconds to draw; here they are files with a word in them."""

    def written(run: sl.Run, name: str) -> Path:
        (run.path / name).write_text("written again")
        return run.path / name

    patch.setattr(sl.figures, "draw_all", lambda run: [written(run, "figures/loss.png")])
    patch.setattr(sl.report, "write_report", lambda run: written(run, "report.html"))


def press_ctrl_c_in(step: int, patch: pytest.MonkeyPatch) -> None:
    real = sl.GradientCapture.step

    def pressed(self: sl.GradientCapture, now: int) -> None:
        real(self, now)
        if now == step:
            signal.raise_signal(signal.SIGINT)

    patch.setattr(sl.GradientCapture, "step", pressed)


def test_help_needs_none_of_the_heavy_packages() -> None:
    code = f"""
import sys
from subspace_lab.cli import main
for arguments in ([], ["--version"], *([command, "--help"] for command in {COMMANDS!r})):
    sys.argv = ["subspace-lab", *arguments]
    try:
        main()
    except SystemExit as end:
        assert not end.code
heavy = {{"torch", "numpy", "transformers", "pandas", "matplotlib", "scipy", "jinja2"}}
print(sorted(sys.modules.keys() & heavy))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert all(f"Usage: subspace-lab {command}" in done.stdout for command in COMMANDS)
    assert sl.__version__ in done.stdout.splitlines()


@pytest.mark.slow
def test_train_then_analyze(world: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = tmp_path / "a run"
    layers = ("*.q_proj.*", "*.down_proj.*")
    done = command("train", run_dir, "--data", world, *TINY, "--layers", *layers, "--clip", "none", "--betas", 0.8, 0.9)
    assert (done.status, done.out) == (0, f"next: subspace-lab analyze '{run_dir}'\n")
    run = sl.Run.open(run_dir)
    assert (run.steps, run.manifest["finished"]) == ([0, 3, 6, 9], True)
    assert set(run.layers["kind"]) == {"q_proj", "down_proj"}
    config = run.manifest["config"]
    assert (config["layers"], config["clip"], config["betas"]) == ([*layers], None, [0.8, 0.9])

    done = command("analyze", run_dir, "--ranks", 2, 5, "--rank", 3, "--lags", 1, 2, "--top", 2, "--workers", 2)
    assert done.status == 0
    assert set(run.table("energy")["rank"]) == {2, 5}
    assert set(run.table("energy")["lag_steps"]) == {0, 3, 6}
    assert set(run.table("angles")["rank"]) == {3}
    assert set(run.table("curvature")["index"]) == {0, 1}
    assert {path.stem for path in (run_dir / "analysis").iterdir()} == TABLES
    for finding in sl.analysis.findings(run):
        assert f"\n{finding.title}\n  {finding.text}\n" in done.out
    assert done.out.endswith(f"report: {run_dir / 'report.html'}\n")
    assert (run_dir / "report.html").stat().st_size > 10_000
    assert len([*(run_dir / "figures").glob("*.png")]) == len([*(run_dir / "figures").glob("*.pdf")]) > 4

    without_drawing(monkeypatch)
    done = command("report", run_dir)
    assert done == Outcome(0, f"1 figure files in {run_dir / 'figures'}\nreport: {run_dir / 'report.html'}\n", "")
    assert (run_dir / "report.html").read_text() == "written again"


@pytest.mark.parametrize("name", ["grass-walk", "BAdam"])
def test_train_with_another_optimizer(name: str, world: Path, command: Command, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    settings = {"grass-walk": ["--rank", 5, "--scale", 0.5], "BAdam": []}[name]
    words = {"grass-walk": {"walk-step": "5e-2", "zeta": "none", "transport": "clamped"}, "BAdam": {"seed": 7}}[name]
    options = [word for key, value in words.items() for word in (f"--optimizer-options.{key}", value)]
    arguments = ["--optimizer", name, "--update-interval", 4, *settings, *options]
    assert command("train", run_dir, "--data", world, *TINY, *arguments).status == 0
    config = sl.Run.open(run_dir).manifest["config"]
    found = [config[key] for key in ("optimizer", "rank", "update_interval", "scale", "optimizer_options")]
    assert (
        found
        == {
            "grass-walk": ["grasswalk", 5, 4, 0.5, {"walk_step": 0.05, "zeta": None, "transport": "clamped"}],
            "BAdam": ["badam", None, 4, 1.0, {"seed": 7}],
        }[name]
    )


@pytest.mark.parametrize(
    ("word", "value"),
    [("5", 5), ("-1", -1), ("0.05", 0.05), ("1e-3", 1e-3), ("none", None), ("None", None), ("true", True),
     ("False", False), ("exact", "exact"), (0.5, 0.5), (None, None), (True, True), (0, 0)],
    ids=str,
)  # fmt: skip
def test_words_of_the_command_line(word: object, value: object) -> None:
    plain = cli._plain(word)
    assert (plain, type(plain)) == (value, type(value))


def cells(line: str) -> list[int]:
    return [int(cell.replace(",", "")) for cell in line.split()[1:5]]


@pytest.mark.parametrize("width", [80, 120])
def test_memory_prints_exact_bytes_of_every_method(
    width: int, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    done = command("memory", "--preset", "llama-7b")
    assert (done.status, done.err) == (0, "")
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= width
    assert lines[:3] == [
        "llama-7b: 6,738,415,616 parameters in float32",
        "rank 1024 (published) for attention and MLP; embeddings, head, norms full-rank",
        "weights 26,953,662,464 bytes, gradients 26,953,662,464 bytes",
    ]
    table = {line.split()[0]: line for line in lines if line.split() and line.split()[0] in METHOD_NAMES}
    assert list(table) == METHOD_NAMES
    shapes = sl.training.parameter_shapes(sl.training.preset("llama-7b"))
    for name, line in table.items():
        report = sl.optim.memory_report(shapes, name, rank=1024)
        assert cells(line) == [report.states, report.bases, report.refresh_workspace, report.total]
    assert table["GaLore"].endswith("68%" if width == 120 else "72,885,772,556")
    assert table["GaLore"].split()[5:6] == (["72.886"] if width == 120 else [])


def test_memory_of_chosen_methods_ranks_and_dtypes(command: Command) -> None:
    arguments = ["--preset", "llama-2m", "--methods", "grass-walk", "adamw", "badam", "--weights-dtype", "bfloat16"]
    done = command("memory", *arguments, "--rank", 16, "--state-dtype", "bfloat16")
    assert done.status == 0
    assert "\nrank 16 for attention and MLP;" in done.out
    rows = {line.split()[0]: cells(line) for line in done.out.splitlines() if line.split()[:1] in ROWS}
    assert list(rows) == ["AdamW", "GrassWalk", "BAdam"]
    h, inner, vocabulary, blocks = 128, 352, 4096, 4
    linear, rest, num_rest = blocks * (4 * h * h + 3 * h * inner), 2 * vocabulary * h + 9 * h, 11
    total = linear + rest
    assert rows["AdamW"] == [4 * total + 4 * (num_rest + 28), 0, 0, 8 * total + 4 * (num_rest + 28)]
    assert rows["GrassWalk"][:2] == [
        blocks * (2 * 2 * 16 * (4 * h + 3 * inner) + 4 * 7) + 4 * rest + 4 * num_rest, 2 * blocks * 7 * h * 16
    ]  # fmt: skip
    assert rows["BAdam"][:3] == [4 * vocabulary * h, 0, 0]
    assert "rank 32 (a quarter of the width)" in command("memory", "--preset", "llama-2m").out


def test_memory_needs_neither_transformers_nor_a_model() -> None:
    """What it loads is torch, and all that it holds is far from the 27 GB of the weights."""
    code = """
import resource, sys
from subspace_lab.cli import app
app(["memory", "--preset", "llama-7b"], result_action="return_value")
print(sorted(sys.modules.keys() & {"transformers", "pandas", "matplotlib", "scipy"}))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 2_000_000)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["[]", "True"]


def test_verify_says_how_many_and_finds_an_altered_one(run_dir: Path, command: Command) -> None:
    assert command("verify", run_dir) == Outcome(0, f"{run_dir}: 4 snapshots, all of them sound\n", "")
    path = run_dir / "snapshots" / "step_00000006.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    for name in ("verify", "analyze", "recommend"):
        done = command(name, run_dir)
        assert (done.status, done.out) == (2, "")
        assert done.err.startswith(f"error: {path} was altered: checksum ")
        assert done.err.count("\n") == 1


def test_recommend_prints_and_saves_the_plan(run_dir: Path, command: Command) -> None:
    done = command("recommend", run_dir)
    assert done.status == 0
    plan = sl.Plan.load(run_dir / "plan.json")
    assert plan == sl.recommend(sl.Run.open(run_dir))
    lines = done.out.splitlines()
    assert lines[-1] == f"saved {run_dir / 'plan.json'}"
    for layer in plan.layers:
        (line,) = (line for line in lines if layer.layer in line)
        signs = {"at most": ["≤"], "at least": ["≥"], "": []}
        rank, interval = [*signs[layer.rank_bound], str(layer.rank)], [*signs[layer.bound], str(layer.update_interval)]
        energy, noise, kept = (f"{share:.0%}" for share in (layer.fraction, layer.null_noise, layer.retained))
        assert line.split() == [layer.layer, *rank, energy, noise, *interval, kept]


def test_a_run_without_energy_has_no_findings_and_says_so(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_drawing(monkeypatch)
    write_run(tmp_path / "run", lambda step: {"blocks.0.w.weight": torch.zeros(4, 6)}, steps=2)
    (tmp_path / "run" / "figures").mkdir()
    done = command("analyze", tmp_path / "run")
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("\nno findings: no captured gradient is finite and other than zero\n")


def test_recommend_fits_into_eighty_columns(run_dir: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = command("recommend", run_dir)
    assert done.status == 0
    assert all(len(line) <= 80 for line in done.out.splitlines() if not line.startswith("saved "))
    names = [line.split()[0] for line in done.out.splitlines() if line.startswith("model.")]
    assert names == [layer.layer for layer in sl.Plan.load(run_dir / "plan.json").layers], "whole names, one line each"


def test_recommend_says_what_rests_on_nothing(command: Command, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", noise({"blocks.0.w.weight": (16, 24), "blocks.1.w.weight": (16, 24)}))
    sl.analysis.energy(run, ranks=(2, 4))
    done = command("recommend", tmp_path / "run")
    assert "at no rank told from noise: 2 of 2 layers" in done.out
    assert done.out.count(" ≤ 2 ") == 2
    assert "-0%" not in done.out


@pytest.mark.parametrize("name", ["analyze", "report", "recommend", "verify"])
def test_who_stops_reading_gets_no_error_and_the_files(name: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", noise({"blocks.0.w.weight": (6, 9)}), steps=2)
    sl.analysis.analyze(run)
    script = Path(sys.executable).with_name("subspace-lab")
    line = f"'{script}' {name} '{run.path}' | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    assert (done.stdout, done.stderr) == ("141\n", "")
    wanted = {"analyze": "report.html", "report": "report.html", "recommend": "plan.json", "verify": "manifest.json"}
    assert (run.path / wanted[name]).is_file()


@pytest.mark.parametrize("name", ["train", "demo"])
def test_ctrl_c_says_how_to_resume_and_that_is_how(
    name: str, world: Path, command: Command, small_demo: list[str], tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    arguments = {"train": [run_dir, "--data", world, *TINY], "demo": [run_dir, *small_demo]}[name]
    with pytest.MonkeyPatch.context() as patch:
        press_ctrl_c_in(4, patch)
        done = command(name, *arguments)
    assert done.status == 130
    advice = f"interrupted at step 5; resume with: subspace-lab train {run_dir} --resume"
    assert done.err.splitlines()[-1] == advice
    assert sl.Run.open(run_dir).manifest["finished"] is False
    assert command(*advice.partition("subspace-lab ")[2].split()).status == 0
    run = sl.Run.open(run_dir)
    assert run.manifest["finished"] is True
    assert run.metrics["step"].tolist() == list(range(12))


def test_ctrl_c_elsewhere(run_dir: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sl.Run, "verify", pressed)
    assert command("verify", run_dir) == Outcome(130, "", "interrupted\n")


@pytest.fixture
def small_demo(world: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options of a demo with a tiny model and a few words in the place of the standard library."""
    from subspace_lab.training import config, sources

    monkeypatch.setattr(config, "DEFAULT_PRESET", "tiny")
    words = sources.find_source(str(world))
    monkeypatch.setattr(sources, "_stdlib", lambda: words)
    return ["--steps", "12"]


@pytest.mark.slow
def test_demo_ends_with_three_findings_and_the_report(
    command: Command, small_demo: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "demo"
    done = command("demo", run_dir, *small_demo)
    assert done.status == 0
    run = sl.Run.open(run_dir)
    assert (run.steps, run.manifest["config"]["data"]) == ([0, 10], "stdlib")
    told = sl.analysis.findings(run)
    assert [finding.title for finding in told[:3]] == [
        "Core energy against its null", "Trend over training and depth", "Drift of the subspace"
    ]  # fmt: skip
    assert done.out.index(told[0].text) < done.out.index(told[1].text) < done.out.index(told[2].text)
    assert done.out.endswith(f"report: {run_dir / 'report.html'}\n")
    (disk,) = (line for line in done.out.splitlines() if line.startswith("disk: "))
    assert disk.endswith(f"; to free it: rm -r {run_dir}")
    size = sum(path.stat().st_size for path in run_dir.rglob("*") if path.is_file())
    assert abs(int(disk.split()[1]) - size / 1e6) < 1

    snapshots = {path: path.stat().st_mtime_ns for path in (run_dir / "snapshots").iterdir()}
    without_drawing(monkeypatch)
    assert command("demo", run_dir, *small_demo).status == 0
    assert (run_dir / "report.html").read_text() == "written again"
    assert all(path.stat().st_mtime_ns == time for path, time in snapshots.items())
    done = command("demo", run_dir, "--steps", 13)
    assert (done.status, done.out) == (2, "")
    assert done.err == f"error: {run_dir} holds another run (steps 12 -> 13); choose another directory for this one\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("verify {tmp}/none", "run directory {tmp}/none does not exist; give the directory that a capture"),
        ("verify {tmp}/empty", "run directory {tmp}/empty is empty; give"),
        ("analyze {tmp}/words.txt", "run directory {tmp}/words.txt is a file; give"),
        ("recommend {tmp}/other", "{tmp}/other is no run: it has no manifest.json; give"),
        ("analyze {tmp}/newer", "{tmp}/newer/manifest.json has format version 99, this release reads up to 1; upgrade"),
        ("report {run}", "{run} has no table 'energy' yet; run: subspace-lab analyze {run}"),
        ("analyze {run} --ranks 0", "rank must be a positive integer, got 0"),
        ("analyze {run} --ranks 4 -3", "rank must be a positive integer, got -3"),
        ("analyze {run} --ranks 4 9999", "rank 9999 is larger than every layer; the largest of {run} has m = 16"),
        ("analyze {run} --rank 9999", "rank 9999 is larger than every layer"),
        ("analyze {run} --lags 0", "lag must be a positive integer, got 0"),
        ("analyze {run} --top 0", "top must be a positive integer, got 0"),
        ("analyze {run} --workers 0", "workers must be a positive integer, got 0"),
        ("analyze {run} --ranks two", 'Invalid value for --ranks: unable to convert "two" into int.'),
        (
            "train {run}",
            "{run} already holds a run; resume it with --resume (resume=True in Python), or choose another",
        ),
        ("analyze {run} --ranks 4 1.5", 'Invalid value for --ranks: unable to convert "1.5" into int.'),
        ("analyze {run} --rank 2.5", 'Invalid value for --rank: unable to convert "2.5" into int.'),
        ("analyze {run} --lags 1.0", 'Invalid value for --lags: unable to convert "1.0" into int.'),
        ("analyze {run} --top 2.5", 'Invalid value for --top: unable to convert "2.5" into int.'),
        ("analyze {run} --workers 1.5", 'Invalid value for --workers: unable to convert "1.5" into int.'),
        ("train {tmp}/new --steps 1.5", 'Invalid value for --steps: unable to convert "1.5" into int.'),
        ("train {tmp}/new --seed .5", 'Invalid value for --seed: unable to convert ".5" into int.'),
        ("train {tmp}/new --every 2.5", 'Invalid value for --every: unable to convert "2.5" into int.'),
        ("demo {tmp}/new --steps 1.5", 'Invalid value for --steps: unable to convert "1.5" into int.'),
        ("train {tmp}/other", "{tmp}/other is not empty and not a run; choose another directory"),
        ("train {run} --resume", "{run} is finished: all of its 12 steps are done; there is nothing to resume"),
        ("train {tmp}/none --resume", "run directory {tmp}/none does not exist"),
        ("train {tmp}/new --steps 0", "steps must be a whole number of at least 1, got 0"),
        ("train {tmp}/new --steps ten", 'Invalid value for --steps: unable to convert "ten" into int.'),
        ("train {tmp}/new --stpes 3", "Unknown option: --stpes. Did you mean --steps?"),
        ("train {tmp}/new --preset llama", "there is no preset 'llama'; nearest: llama-"),
        ("train {tmp}/new --preset tiny --data {tmp}/none.txt", "data='{tmp}/none.txt' does not exist; give a file"),
        ("train {tmp}/new --preset tiny --data {tmp}/short.txt", "the data have "),
        ("train {tmp}/new --preset tiny --data {tmp}/binary.txt", "{tmp}/binary.txt is not UTF-8 text"),
        (
            "train {tmp}/new --preset tiny --data {tmp}/words.txt --layers *.attn.*",
            "layers: '*.attn.*' matches no para",
        ),
        ("train {tmp}/new --preset tiny --data {tmp}/words.txt --keep all", "keep must be 'full', 'gram', 'topk:K'"),
        ("train {tmp}/new --optimizer graswalk", "no optimizer is called 'graswalk'; nearest: GrassWalk; there are"),
        ("train {tmp}/new --rank 8", "rank=8 has no effect on AdamW; leave it out"),
        (
            "train {tmp}/new --optimizer galore --optimizer-options.scaling 2",
            "GaLore has no option 'scaling'; nearest: ",
        ),
        ("memory --preset llama-1", "there is no preset 'llama-1'; nearest: llama-1b"),
        ("memory --methods GaLore graswalk", "no optimizer is called 'graswalk'; nearest: GrassWalk; there are AdamW"),
        ("memory --rank 0", "rank must be a positive integer or None, got 0"),
        ("memory --weights-dtype bf16", 'Invalid value "bf16" for --weights-dtype. Choose from: "float32", "bfloat16'),
        ("train", 'Command "train" parameter RUN_DIR requires an argument.'),
        ("demo {run}", "{run} holds another run (data '"),
        ("analyse {run}", 'Unknown command "analyse". Did you mean "analyze"?'),
    ],
)
def test_a_mistake_is_one_line_and_changes_nothing(
    arguments: str, message: str, finished: Path, world: Path, command: Command, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    shutil.copytree(finished, tmp_path / "newer")
    manifest = json.loads((finished / "manifest.json").read_text())
    (tmp_path / "newer" / "manifest.json").write_text(json.dumps({**manifest, "format_version": 99}))
    shutil.copy(world, tmp_path / "words.txt")
    (tmp_path / "short.txt").write_text("a word")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")

    def everything() -> dict[Path, bytes]:
        paths = (path for directory in (tmp_path, finished) for path in directory.rglob("*") if path.is_file())
        return {path: path.read_bytes() for path in paths}

    before = everything()
    done = command(*(word.format(tmp=tmp_path, run=finished) for word in arguments.split()))
    assert (done.status, done.out) == (2, "")
    line = done.err.splitlines()[-1]
    assert line.startswith("error: " + message.format(tmp=tmp_path, run=finished))
    notes = done.err.splitlines()[:-1]
    assert all(note.startswith("preparing the tokens of data=") for note in notes)
    assert everything() == before


def test_a_package_that_is_not_installed_names_the_extra(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    message = "error: transformers is not installed; run: pip install 'subspace_lab[hf]'\n"
    assert command("train", tmp_path / "run") == Outcome(2, "", message)
    assert not (tmp_path / "run").exists()


def test_a_mistake_of_ours_and_one_that_is_asked_for_keep_their_traceback(
    run_dir: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(sl.Run, "verify", broken)
        with pytest.raises(RuntimeError, match="a bug"):
            command("verify", run_dir)
    monkeypatch.setenv("SUBSPACE_LAB_TRACEBACK", "1")
    with pytest.raises(sl.RunError, match="does not exist"):
        command("verify", run_dir / "none")


def test_the_console_script_prints_what_is_absent_as_a_note(tmp_path: Path) -> None:
    write_run(tmp_path / "run", noise({"blocks.0.w.weight": (6, 9)}), steps=2, keep="stats")
    script = Path(sys.executable).with_name("subspace-lab")
    done = subprocess.run([script, "recommend", tmp_path / "run"], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr == (
        "note: keep='stats' holds no bases: no stale energy, no angles and no curvature; those rows are absent\n"
    )
    assert "unknown" in done.stdout
