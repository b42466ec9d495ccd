"""One line for each mistake."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from tests.cli.helpers import Command, Outcome


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("verify {tmp}/none", "run directory {tmp}/none does not exist; give the directory that a capture"),
        ("verify {tmp}/empty", "run directory {tmp}/empty is empty; give"),
        ("analyze {tmp}/words.txt", "run directory {tmp}/words.txt is a file; give"),
        ("recommend {tmp}/other", "{tmp}/other is not a run: it has no manifest.json; give"),
        ("analyze {tmp}/newer", "{tmp}/newer/manifest.json has format version 99, this release reads up to 1; upgrade"),
        ("report {run}", "{run} has no table 'energy' yet; run: subspace-lab analyze {run}"),
        ("analyze {run} --ranks 0", "rank must be a whole number of at least 1, got 0"),
        ("analyze {run} --ranks 4 -3", "rank must be a whole number of at least 1, got -3"),
        ("analyze {run} --ranks 4 9999", "rank 9999 is larger than every layer; the largest of {run} has m = 16"),
        ("analyze {run} --rank 9999", "rank 9999 is larger than every layer"),
        ("analyze {run} --lags 0", "lag must be a whole number of at least 1, got 0"),
        ("analyze {run} --top 0", "top must be a whole number of at least 1, got 0"),
        ("analyze {run} --workers 0", "workers must be a whole number of at least 1, got 0"),
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
            "GaLore has no option 'scaling'; it has ",
        ),
        ("memory --preset llama-1", "there is no preset 'llama-1'; nearest: llama-1b"),
        ("memory --methods GaLore graswalk", "no optimizer is called 'graswalk'; nearest: GrassWalk; there are AdamW"),
        ("memory --rank 0", "rank must be a whole number of at least 1, got 0"),
        ("memory --methods", "--methods names no optimizer; leave it out for all of them"),
        ("memory --methods BAdam --rank 3", "--rank 3 has no effect on AdamW and BAdam; leave it out"),
        ("memory --methods AdamW --state-dtype bfloat16", "--state-dtype bfloat16 has no effect on AdamW, which keeps"),
        ("memory --world 8", "--world 8 has no effect without --sharding; add --sharding all, or leave it out"),
        ("memory --intra 8", "--intra 8.0 has no effect without --sharding; add --sharding all, or leave it out"),
        ("memory --sharding all --world 8", "--sharding needs --per-node: how many processes a node has"),
        ("memory --sharding all --per-node 8", "--sharding needs --world: the number of processes"),
        ("memory --sharding --world 8 --per-node 8", "sharding names no combination; give 'all', or some of NNN"),
        ("memory --sharding all --world 8 --per-node 3", "per_node=3 does not divide world=8: all nodes have equally"),
        ("memory --sharding ggg --world 8 --per-node 4", "there is no sharding 'ggg'; nearest: GGG"),
        ("memory --sharding all --world 8 --per-node 8 --inter 9", "inter=9.0 has no effect on one node; leave it out"),
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
