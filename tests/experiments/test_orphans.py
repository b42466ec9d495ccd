"""Whatever is killed by SIGKILL, no trial trains on behind the back of the same command begun again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from subspace_lab.experiments.progress import last_line
from tests.studies.optimizers.conftest import directory

pytestmark = pytest.mark.kill
WALK = "grasswalk_lr0.001_seed0"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
CODE = """
import json, signal, sys
from subspace_lab.studies.optimizers import compare
from subspace_lab.training import TrainConfig
signal.signal(signal.SIGINT, signal.{disposition})
compare(sys.argv[1], ["grasswalk"], lrs=[1e-3], seeds=1, config=TrainConfig.from_dict(json.loads(sys.argv[2])))
"""


def wait_until(is_so: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def metrics_of_walk(path: Path) -> Path:
    return directory(path, WALK) / "metrics.jsonl"


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "disposition"), [("server", "default_int_handler"), ("command", "SIG_IGN")], ids=["server", "command"]
)
def test_trials_end_with_what_began_them_and_the_same_command_goes_on(settings, tmp_path, victim, disposition):
    """Also where Ctrl-C is ignored, as in what a shell script begins in the background."""
    path, config = tmp_path / "sweep", settings(steps=100_000, eval_every=100_000)
    command = [sys.executable, "-c", CODE.format(disposition=disposition), str(path), json.dumps(config.to_dict())]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: process.poll() is not None or last_line(metrics_of_walk(path)).get("step", 0) >= 3)
    assert process.poll() is None, process.stderr.read()
    metrics = metrics_of_walk(path)
    (server,) = psutil.Process(process.pid).children()
    (trial,) = server.children()
    (server if victim == "server" else process).send_signal(signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    if victim == "server":
        assert "run the same command again" in said
    wait_until(lambda: gone(server) and gone(trial), 5 if victim == "server" else 20)

    before = last_line(metrics)["step"]
    again = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: again.poll() is not None or last_line(metrics).get("step", 0) > before + 3)
        assert again.poll() is None, again.stderr.read()
    finally:
        again.kill()
        again.communicate()


def test_a_trial_that_does_not_heed_its_interruption_is_killed_in_the_end(tmp_path):
    """And the other end of the pipe being held by a process that the command forked keeps nothing alive."""
    code = f"""
import os, signal, subprocess, sys, time
from subspace_lab.experiments import run_trial
from subspace_lab.experiments.executors import fork_server
def deaf(_):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    open({str(tmp_path / "begun")!r}, "w").write(str(os.getpid()))
    time.sleep(300)
run_trial.run_trial = deaf
fork_server._import_all = lambda: None
fork_server._GRACE_S = 0.3
sys.argv = ["fork_server", sys.argv[1]]
fork_server.main()
"""
    request = {"trials_dir": str(tmp_path), "name": "deaf", "recipe": "", "config": {}, "environment": {}}
    parent = f"""
import os, subprocess, sys, time
command = [sys.executable, "-c", {code!r}, str(os.getpid())]
child = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
child.stdin.write({json.dumps(request).encode()!r} + bytes([10])); child.stdin.flush()
if not os.fork():
    time.sleep(60)
    os._exit(0)
print(child.pid, flush=True)
time.sleep(300)
"""
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, env=ENVIRONMENT)
    server = psutil.Process(int(process.stdout.readline()))
    begun = tmp_path / "begun"
    wait_until(lambda: begun.exists() and begun.read_text())
    trial = psutil.Process(int(begun.read_text()))
    holder = [child for child in psutil.Process(process.pid).children() if child.pid != server.pid]
    process.kill()
    process.wait()
    wait_until(lambda: gone(trial) and gone(server), 20)
    for child in holder:
        child.kill()


@pytest.mark.parametrize("by_kernel", [True, False])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_process_ends_with_its_parent(by_kernel, number):
    child = f"""
import os, sys, time
from subspace_lab.experiments.executors import parent
if not {by_kernel}:
    parent._asked_of_kernel = lambda _: False
    parent._PATIENCE_S = 0.05
parent.end_with_parent(int(sys.argv[1]), {int(number)})
print(os.getpid(), flush=True)
try:
    time.sleep(300)
except KeyboardInterrupt:
    sys.exit(0)
"""
    code = f"import os, subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}, str(os.getpid())])"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    below = psutil.Process(int(process.stdout.readline()))
    process.kill()
    process.wait()
    wait_until(lambda: gone(below), 20)


def test_a_process_whose_parent_is_gone_already_ends():
    command = [sys.executable, "-m", "subspace_lab.experiments.executors.parent", "1", "-c", "print('ran')"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (-signal.SIGINT, "")


def test_torchrun_and_its_processes_end_with_the_command(tmp_path):
    """What torchrun would begin waits; the command that began torchrun is killed, then torchrun itself is."""
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import os, pathlib, sys, time\n"
        "from subspace_lab.experiments.executors.parent import end_with_parent\n"
        "end_with_parent(os.getppid())\n"
        f"pathlib.Path({str(tmp_path)!r}, 'worker-' + os.environ['RANK'] + '.pid').write_text(str(os.getpid()))\n"
        "time.sleep(300)\n"
    )
    code = f"""
import time
from subspace_lab.experiments.executors import torchrun
from subspace_lab.experiments.executors.base import Request
words = ["python", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", {str(worker)!r}]
torchrun.command = lambda *_: words
print(torchrun._begin(Request({str(tmp_path)!r}, "trial", "train", {{}}), 2).pid, flush=True)
time.sleep(300)
"""
    for victim in ("command", "torchrun"):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=ENVIRONMENT)
        torchrun = psutil.Process(int(process.stdout.readline()))
        files = [tmp_path / f"worker-{rank}.pid" for rank in (0, 1)]
        wait_until(lambda: all(file.exists() and file.read_text() for file in files))  # noqa: B023
        workers = [psutil.Process(int(file.read_text())) for file in files]
        (process if victim == "command" else torchrun).kill()
        wait_until(lambda: all(map(gone, (torchrun, *workers))), 60)  # noqa: B023
        process.kill()
        process.wait()
        for file in files:
            file.unlink()
