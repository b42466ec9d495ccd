"""Defenses, one file each, by the stage in which they act."""
