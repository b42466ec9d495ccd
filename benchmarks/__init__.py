"""Measurements, one file each: run as ``python -m benchmarks.NAME``, writes ``results/benchmarks/NAME.json``.

Every number that is compared with another one is measured in the same run, in alternation; take timings on an idle
machine. `pages` puts them into the tables of the pages.
"""
