"""What was meant by an option that a command does not have."""

from __future__ import annotations

from cyclopts import CycloptsError, UnknownOptionError


def in_words(error: Exception) -> str:
    """The message of an error, for an unknown option with what was meant, or where the options are listed.

    Args:
        error: Of the command line, or of a command.

    Returns:
        The message.
    """
    text = str(error)
    if not isinstance(error, UnknownOptionError):
        return text
    names = [name for argument in error.argument_collection if argument.parse for name in argument.names]
    option = (error.token.keyword or error.token.value).partition("=")[0]
    text, _, near = text.partition(" Did you mean ")
    meant = abbreviated(option, names) or near.removesuffix("?") or sharing(option, names)
    return f"{text} Did you mean {meant}?" if meant else f"{text} See {_command(error)} --help."


def abbreviated(option: str, names: list[str]) -> str | None:
    """The option whose letters are the initials of another one.

    Args:
        option: What was typed.
        names: The options that there are.

    Returns:
        One of them, or None.

    >>> abbreviated("--learning-rate", ["--lr-schedule", "--lr", "--rank"])
    '--lr'
    """
    initials = "".join(word[0] for word in _words(option))
    if len(initials) < 2:
        return None
    short = {"".join(_words(name)): name for name in names}
    wanted = [f"{initials}s", initials] if option.endswith("s") else [initials, f"{initials}s"]
    return next((short[letters] for letters in wanted if letters in short), None)


def sharing(option: str, names: list[str]) -> str | None:
    """The option that has most words in common with another one, the shortest of them.

    Args:
        option: What was typed.
        names: The options that there are.

    Returns:
        One of them, or None.

    >>> sharing("--number-of-warmup-steps", ["--steps", "--warmup", "--rank"])
    '--steps'
    """
    words = set(_words(option))
    shared = {name: len(words & set(_words(name))) for name in names}
    best = max(shared, key=lambda name: (shared[name], -len(name)), default=None)
    return best if best and shared[best] else None


def _words(option: str) -> list[str]:
    return [word for word in option.lower().replace("_", "-").replace(".", "-").split("-") if word]


def _command(error: CycloptsError) -> str:
    return " ".join(["subspace-lab", *(error.command_chain or ())])
