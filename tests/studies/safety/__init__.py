"""Tests of the safety study."""
