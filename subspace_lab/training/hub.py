"""Where the hub of transformers and datasets cannot be reached, they look into their caches at once."""

from __future__ import annotations

import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_PATIENCE_S = 5.0


@contextmanager
def without_waiting_for_the_hub() -> Iterator[None]:
    """Have the hub's client behave as with ``HF_HUB_OFFLINE=1`` while the hub cannot be reached.

    Without it the client asks again for a minute before it says so.

    Yields:
        Nothing.
    """
    from huggingface_hub import constants

    places: list[Any] = [constants, *(module for name in ("datasets.config",) if (module := sys.modules.get(name)))]
    before = [module.HF_HUB_OFFLINE for module in places]
    if not constants.HF_HUB_OFFLINE and not _reaches(constants.ENDPOINT):
        for module in places:
            module.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for module, value in zip(places, before, strict=True):
            module.HF_HUB_OFFLINE = value


def _reaches(address: str) -> bool:
    """Whether anything answers there; in a thread, since asking for the address of a name knows no time limit."""
    answers: list[bool] = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=_PATIENCE_S).close()
        except urllib.error.HTTPError:  # it answers
            answers.append(True)
        except (OSError, ValueError):
            return
        else:
            answers.append(True)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_PATIENCE_S)
    return bool(answers)
