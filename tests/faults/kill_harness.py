"""Signals at random instants, and full disks: ``python -m tests.faults.kill_harness DIR ROUNDS SEED``.

Every round forks a process that writes a run, measures it and leaves its tables, and signals it at a random instant, or
limits how large its files may grow. What is left must be sound, and the same work begun again must end as the
undisturbed one. Everything is imported once. Prints what happened as JSON; any violation is an exception.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

import pandas as pd
import torch

import subspace_lab as sl
from subspace_lab.runs import RunError
from tests.runs_by_hand import noise, write_run

LAYERS = {f"blocks.{block}.w.weight": (24, 32) for block in range(4)}
WAYS = ("SIGKILL", "SIGTERM", "SIGINT", "full disk")


def work(path: Path) -> None:
    """Write a run where there is none, and measure it."""
    if not (path / "manifest.json").exists() or not sl.Run.open(path).manifest.get("finished"):
        shutil.rmtree(path, ignore_errors=True)
        write_run(path, noise(LAYERS), steps=8, keep="full")
    run = sl.Run.open(path, write=True)
    sl.analysis.energy(run)
    sl.analysis.angles(run)
    sl.recommend(run).save(path / "plan.json")


def content(path: Path) -> list[object]:
    """What a disturbed one must repeat."""
    run = sl.Run.open(path)
    assert run.verify() == 8
    tables = [run.table(name).to_json() for name in ("energy", "angles")]
    return [*tables, run.metrics.to_json(), (path / "plan.json").read_bytes()]


def begin(path: Path, said: Path, limit: int | None) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        work(path)
        status = 0
    except (RunError, KeyboardInterrupt) as error:
        said.write_text(f"{type(error).__name__}: {error}"[:400])
        status = 3
    except BaseException:
        print(traceback.format_exc(), file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(status)


def left_sound(path: Path) -> None:
    """Whatever was published is whole: no file is half of one."""
    if (path / "manifest.json").exists():
        sl.Run.open(path).verify()
    for table in (path / "analysis").glob("*.parquet"):
        pd.read_parquet(table)
    if (path / "plan.json").exists():
        sl.analysis.Plan.load(path / "plan.json")


def main(directory: Path, rounds: int, seed: int) -> None:
    torch.set_num_threads(1)
    draw, seen = random.Random(seed), Counter[str]()
    begun = time.monotonic()
    os.waitpid(begin(directory / "whole", directory / "said", None), 0)
    patience, expected = time.monotonic() - begun, content(directory / "whole")
    while min(seen[way] for way in WAYS) * len(WAYS) < rounds:
        way = WAYS[sum(seen[name] for name in WAYS) % len(WAYS)]
        path, said = directory / "run", directory / "said"
        said.unlink(missing_ok=True)
        limit = draw.randrange(100, 30_000) if way == "full disk" else None
        child = begin(path, said, limit)
        if limit is None:
            time.sleep(draw.uniform(0, patience))
            os.kill(child, getattr(signal, way))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status != 1, f"{way}: a traceback"
        seen[way] += 1
        seen["finished before"] += status == 0
        if status == 3:
            assert len(said.read_text().splitlines()) == 1
            seen["one line"] += 1
        left_sound(path)
        os.waitpid(begin(path, said, None), 0)  # the same work again
        assert content(path) == expected, way
        assert not [*path.rglob("*.partial")], way
        seen["sound"] += 1
        if draw.random() < 0.7:
            shutil.rmtree(path)
    print(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
