"""One captured step on disk: a safetensors file whose tensors are named ``part:layer``.

Parts by reduction: ``gradient`` (full); ``gram_left`` and ``gram_right`` (gram, packed symmetric); ``basis`` and
``singular_values`` (topk); ``singular_values`` (stats). All of the metadata is one JSON text under one key, so that
two snapshots of the same step are identical byte for byte. It begins with a checksum: SHA-256 over the whole file,
header included, with zeros in the place of the checksum itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from subspace_lab._reading import NotRegularError, open_regular
from subspace_lab.runs.errors import RunError
from subspace_lab.runs.files import publish, unreadable

NUM_STEPS = 10**15  # no run has more
_KEY = "subspace_lab"
_NAME = re.compile(r"step_([0-9]{8}|[1-9][0-9]{8,14})\.safetensors")
_ZEROS = "0" * 64
_CHECKSUM = re.compile(r"[0-9a-f]{64}")
_CHUNK_BYTES = 1 << 20
_BROKEN = (SafetensorError, OSError, ValueError, TypeError, KeyError, RecursionError, AttributeError, RuntimeError)


def snapshot_path(run_dir: Path, step: int) -> Path:
    """Where the snapshot of a step lies."""
    return run_dir / "snapshots" / f"step_{step:08d}.safetensors"


def step_of(path: Path) -> int | None:
    """The step in a snapshot's file name, or None for a name that `snapshot_path` does not give."""
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else None


def steps_in(directory: Path) -> list[int]:
    """The steps of which a directory holds a file, ascending; none where it is missing, or no directory.

    Args:
        directory: ``snapshots`` or ``checkpoints`` of a run.

    Returns:
        The steps.

    Raises:
        RunError: If it cannot be listed.
    """
    try:
        found = [step_of(Path(name)) for name in os.listdir(directory)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise RunError(unreadable(directory, error)) from error
    return sorted(step for step in found if step is not None)


def write_snapshot(
    path: Path, tensors: Mapping[str, Tensor], context: Mapping[str, Any], *, within: Path | None = None
) -> str:
    """Publish a snapshot.

    Args:
        path: From `snapshot_path`.
        tensors: CPU tensors by ``part:layer``, no two of which overlap in memory.
        context: JSON-ready metadata of the step, with ``step``.
        within: The run directory, which is not made again should it be gone; None makes all directories.

    Returns:
        Its checksum.

    Raises:
        RunError: If it cannot be written.
    """
    text = f'{{"checksum": "{_ZEROS}", {_canonical(context)[1:]}'
    with publish(path, within=within) as aside:
        _save({name: tensor.contiguous() for name, tensor in tensors.items()}, aside, text)
        place, checksum = _checksum(aside, _ZEROS)
        with aside.open("r+b") as file:
            file.seek(place)
            file.write(checksum.encode())
    return checksum


class Snapshot:
    """A snapshot opened for reading; a context manager.

    Attributes:
        path: The file.
        context: What was recorded beside the gradients: ``step``, ``loss``, ...
        checksum: As recorded in the file; `verify` compares.

    Args:
        path: The file.

    Raises:
        RunError: If the file is missing, torn or no snapshot.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            os.close(open_regular(path))
        except FileNotFoundError as error:
            raise RunError(f"there is no snapshot {path}") from error
        except NotRegularError as error:
            raise RunError(
                f"{path} is not a file ({error}); move it, or delete it to go on without this step"
            ) from error
        except OSError as error:
            raise RunError(unreadable(path, error)) from error
        try:
            opened: Any = safe_open(path, framework="pt")
            self._file = opened
            self._names = frozenset(self._file.keys())
            self.context, self.checksum = _parse(self._file.metadata()[_KEY])
        except _BROKEN as error:
            raise RunError(f"{path} is torn or no snapshot ({error}); delete it to go on without this step") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.__exit__(kind, error, trace)

    def get(self, part: str, layer: str) -> Tensor | None:
        """The tensor of a part of a layer, or None where the snapshot does not hold it."""
        name = f"{part}:{layer}"
        return self._tensor(name) if name in self._names else None

    def shapes(self) -> dict[tuple[str, str], tuple[int, ...]]:
        """The shapes of all tensors by part and layer, without reading them."""
        shapes = {}
        for name in sorted(self._names):
            part, _, layer = name.partition(":")
            shapes[part, layer] = tuple(self._file.get_slice(name).get_shape())
        return shapes

    def difference(self, tensors: Mapping[str, Tensor], context: Mapping[str, Any]) -> str | None:
        """What distinguishes it from a snapshot of these tensors and this context, None if it is the same bit for bit.

        Args:
            tensors: CPU tensors by ``part:layer``.
            context: JSON-ready metadata of the step.

        Returns:
            The first difference in a few words, or None.
        """
        now = json.loads(_canonical(context))
        for key in sorted(self.context.keys() | now.keys()):
            before, after = self.context.get(key), now.get(key)
            if repr(before) != repr(after):
                return f"{key} ({before!r} before, {after!r} now)"
        for name in sorted(self._names ^ tensors.keys()):
            return f"{name} ({'kept' if name in self._names else 'absent'} before)"
        return next((name for name in sorted(self._names) if not _identical(self._tensor(name), tensors[name])), None)

    def verify(self) -> None:
        """Recompute the checksum.

        Raises:
            RunError: If the file was altered.
        """
        try:
            _, found = _checksum(self.path, self.checksum)
        except OSError as error:
            raise RunError(unreadable(self.path, error)) from error
        except ValueError as error:
            raise RunError(f"{self.path} is torn ({error}); delete it to go on without this step") from error
        if found != self.checksum:
            raise RunError(
                f"{self.path} was altered: checksum {found[:12]}, expected {self.checksum[:12]}; "
                "restore it, or delete it to go on without this step"
            )

    def _tensor(self, name: str) -> Tensor:
        try:
            tensor: Tensor = self._file.get_tensor(name)
        except _BROKEN as error:
            raise RunError(f"{self.path} is torn ({error}); delete it to go on without this step") from error
        return tensor


def _canonical(context: Mapping[str, Any]) -> str:
    return json.dumps(dict(context), sort_keys=True)


def _save(tensors: dict[str, Tensor], path: Path, text: str) -> None:
    try:
        save_file(tensors, path, metadata={_KEY: text})
    except SafetensorError as error:  # how safetensors reports that a write failed
        number = re.search(r"os error ([0-9]+)", str(error))
        raise OSError(int(number[1]) if number else 0, str(error)) from error


def _parse(text: str) -> tuple[dict[str, Any], str]:
    """Context and checksum from the metadata of a snapshot."""
    context = json.loads(text)
    checksum = context.pop("checksum")
    sound = (
        _CHECKSUM.fullmatch(checksum)
        and isinstance(context["step"], int)
        and isinstance(context.get("nonfinite", {}), dict)
        and isinstance(context.get("missing", []), list)
    )
    if not sound:
        raise ValueError("broken metadata")
    return context, checksum


def _checksum(path: Path, recorded: str) -> tuple[int, str]:
    """Where in the file its checksum is recorded, and what it should be."""
    with path.open("rb") as file:
        length = file.read(8)
        header = file.read(int.from_bytes(length, "little"))
        place = header.index(recorded.encode())  # the metadata come first in the header, and the checksum in them
        digest = hashlib.sha256(length + header[:place] + _ZEROS.encode() + header[place + len(_ZEROS) :])
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return len(length) + place, digest.hexdigest()


def _identical(before: Tensor, now: Tensor) -> bool:
    if (before.dtype, before.shape) != (now.dtype, now.shape):
        return False
    return torch.equal(*(tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (before, now)))
