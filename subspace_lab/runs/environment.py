"""What a number was measured on: the part of the surroundings that results depend on."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("torch", "numpy", "scipy", "pandas", "safetensors", "transformers", "tokenizers", "datasets")


def environment() -> dict[str, Any]:
    """Versions, processor and threads of this process, as JSON-ready values; no host name, user or path.

    Returns:
        A dictionary with ``python``, ``platform``, ``processor``, ``cores``, ``torch_threads``, ``cuda`` (device name
        or None), ``packages`` (name -> version) and, where several train together, ``processes``.
    """
    import torch

    group = torch.distributed.is_available() and torch.distributed.is_initialized()
    processes = torch.distributed.get_world_size() if group else 1
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()}-{platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        **({"processes": processes} if processes > 1 else {}),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
