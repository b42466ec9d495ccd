"""Defenses of the alignment, before a user has the model; a file registers its class."""
