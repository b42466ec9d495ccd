"""Threats, one file each; a file registers its class."""
