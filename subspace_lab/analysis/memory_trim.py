"""Memory that was freed but that the allocator keeps."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable


def trim_memory() -> None:
    """Return freed parts of the heap to the system, where the C library can (glibc); elsewhere nothing happens.

    Bases that are remembered lie between the work arrays of decompositions that are freed. The pages between them stay
    with the process otherwise, and its memory grows with every snapshot by what nobody holds.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # not glibc: musl, macOS, Windows
        return None
