"""The command line: parse, call, print. One file per command or family of commands; `entry` puts them together."""

from subspace_lab.cli.entry import app, main

__all__ = ["app", "main"]
