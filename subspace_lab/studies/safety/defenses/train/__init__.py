"""Defenses while a user's data are tuned on; a file registers its class."""
