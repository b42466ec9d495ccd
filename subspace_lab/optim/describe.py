"""What an optimizer shows of itself: its groups, and of each only the settings that have an effect there."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Collection, Iterable
from typing import Any

from subspace_lab.optim.options import OPTIONS

_WIDTH = 100
_NOT_SHOWN = {"params", "param_names", "method", "draws_by"}


def describe(
    kind: str, groups: Iterable[dict[str, Any]], effective: Callable[[dict[str, Any]], Collection[str]]
) -> str:
    """The text of ``repr(optimizer)``.

    Args:
        kind: Name of the optimizer.
        groups: Its groups.
        effective: Options that have an effect on a group.

    Returns:
        Two or more lines per group.
    """
    lines = [f"{kind} ("]
    for number, group in enumerate(groups):
        known = effective(group)
        shown = [name for name in group if name in known or name not in {*OPTIONS, *_NOT_SHOWN}]
        settings = ", ".join(f"{name}={group[name]!r}" for name in shown)
        lines.append(f"  group {number}: {_members(group)}{'' if 'rank' in known else ', full-rank AdamW'}")
        lines += textwrap.wrap(settings, _WIDTH, initial_indent="    ", subsequent_indent="    ")
    return "\n".join([*lines, ")"])


def _members(group: dict[str, Any]) -> str:
    """How many parameters, and the names of the first and the last one."""
    number, names = len(group["params"]), group.get("param_names", ())
    ends = list(dict.fromkeys(names[i] for i in (0, -1))) if names else []
    return f"{number} parameter{'s' * (number != 1)}" + (f", {' to '.join(ends)}" if ends else "")
