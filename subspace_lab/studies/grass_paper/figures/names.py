"""Methods as their users know them."""

from __future__ import annotations


def shown(method: str) -> str:
    """The name of a method as it is written: that of its class; what is no method's keyword stays as it is.

    Args:
        method: As a table has it: ``grasswalk``, or with settings, ``grasswalk rank=32``.

    Returns:
        The name.

    >>> shown("grasswalk rank=32"), shown("walk+AO")
    ('GrassWalk rank=32', 'walk+AO')
    """
    from subspace_lab.optim import METHODS

    name, space, rest = method.partition(" ")
    return (METHODS[name].__name__ if name in METHODS else name) + space + rest
