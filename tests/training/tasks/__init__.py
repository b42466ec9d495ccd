"""Labelled tasks: rows, scorers, losses, runs."""
