"""Measurements, one file each: run as ``python -m benchmarks.NAME``, writes ``benchmarks/results/NAME.json``.

Every number that is compared with another one is measured in the same run, in alternation; take timings on an idle
machine. Nothing is drawn here.
"""
