"""Defenses that repair a tuned model; a file registers its class."""
