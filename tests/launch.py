"""Several processes for a test, cheaply: one Python imports the libraries and forks them.

``python -m tests.launch CALLS END`` makes the calls of a JSON list one after the other, each in as many processes as it
says and with the variables that torchrun sets, until all of them have ended; a failure in one of them is its own. A
process that still runs shortly before the end, in seconds of the monotonic clock, writes where it is to standard error.
"""

import faulthandler
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

from torch import distributed

TIMEOUT_S = 600
PATIENCE_S = 330  # with processes that `tell`; beyond the five minutes that gloo itself waits
STACKS_S = 10  # before processes are killed they write where they are


def launch(target, size, *arguments, **variables):
    """One call, see `launch_all`."""
    return launch_all([(target, size, arguments, variables)])[0]


def launch_all(calls, timeout=TIMEOUT_S):
    """Call functions in several processes each.

    Args:
        calls: Target (``module:function``, which takes texts), number of processes, arguments and variables of each.
        timeout: Seconds for all of them; then they are killed, and `subprocess.TimeoutExpired` is raised, whose
            ``stderr`` is where each of them was.

    Returns:
        Of each the exit statuses by process, minus the signal where one was killed, and what all of them wrote.
    """
    words = [[target, size, list(map(str, arguments)), variables] for target, size, arguments, variables in calls]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-m", "tests.launch", json.dumps(words), str(time.monotonic() + timeout)]
    process = subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)  # those that it forked, too
        _, err = process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            error.stderr = err
        raise
    assert process.returncode == 0, err[-3000:]
    return [tuple(result) for result in json.loads(out.strip().rpartition("\n")[2])]


def told_by(target, size, directory, patience_s=None):
    """What the processes of a call `tell`, by their numbers; a failure in one of them fails the test.

    In one of some thirty runs of the same code two processes were seen not to come back from an all-reduce; the cause
    is not known. Processes that have not ended in time are begun again, once, with a warning that says where they were.

    Args:
        target: ``module:function``, which takes the directory.
        size: Number of processes.
        directory: An empty one.
        patience_s: In which they have to end; `PATIENCE_S` by default.
    """
    call, patience_s = (target, size, (directory,), {}), patience_s or PATIENCE_S
    try:
        ((statuses, log),) = launch_all([call], patience_s)
    except subprocess.TimeoutExpired as hung:
        warnings.warn(
            f"{size} processes of {target} hung and are begun again; they were here:\n{hung.stderr}", stacklevel=2
        )
        ((statuses, log),) = launch_all([call], patience_s)
    assert set(statuses) == {0}, log[-3000:]
    return told(size, directory)


def told(size, directory):
    """What so many processes left in a directory."""
    return [json.loads(Path(directory, f"{rank}.json").read_text(encoding="utf-8")) for rank in range(size)]


def tell(what, directory):
    """Leave something for `told_by`, as JSON, and wait for the other processes."""
    Path(directory, f"{os.environ['RANK']}.json").write_text(json.dumps(what), encoding="utf-8")
    distributed.barrier()


def fork(target, size, arguments, variables, end):
    """Fork the processes of a call and wait for them; where they hang is written before the end, a monotonic time."""
    module, _, name = target.partition(":")
    function = getattr(importlib.import_module(module), name)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    sys.stdout.flush()
    with tempfile.NamedTemporaryFile() as log:
        pids = []
        for rank in range(size):
            pid = os.fork()
            if not pid:
                faulthandler.dump_traceback_later(max(1, end - STACKS_S - time.monotonic()), file=os.dup(2))
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
                node = {"LOCAL_WORLD_SIZE": str(size), **variables}
                place = rank % int(node["LOCAL_WORLD_SIZE"])
                own = {"RANK": rank, "WORLD_SIZE": size, "MASTER_PORT": port}
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "LOCAL_RANK": str(place), **node}
                os.environ |= {name: str(value) for name, value in own.items()}
                _become(function, arguments)
            pids.append(pid)
        statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        return statuses, Path(log.name).read_text(encoding="utf-8", errors="replace")


def _become(function, arguments):
    """Run as one of the processes, and end without the interpreter's shutdown, in which threads of gloo may abort."""
    status = 1
    try:
        function(*arguments)
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    print(json.dumps([fork(*call, float(sys.argv[2])) for call in json.loads(sys.argv[1])]))
