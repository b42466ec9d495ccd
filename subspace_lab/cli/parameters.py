"""Parameters that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

from cyclopts import ArgumentCollection, CoercionError, Parameter

RunDir = Annotated[Path, Parameter(name="RUN_DIR")]


def check_whole(arguments: ArgumentCollection) -> None:
    """Refuse 1.5 where a whole number is meant, which would be rounded."""
    for argument in arguments:
        hint = argument.hint
        whole = int in (hint, *get_args(hint)) or any(int in get_args(part) for part in get_args(hint))
        for token in argument.tokens if whole else ():
            if "." in token.value:
                raise CoercionError(argument=argument, token=token, target_type=int)
