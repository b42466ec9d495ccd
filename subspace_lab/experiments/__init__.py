"""Experiments: named factors, a grid of trials, an executor for what is missing, a store of tables, statistics, pages.

This package knows trials. It knows neither optimizers nor papers: those are in `subspace_lab.studies`.
``import subspace_lab.experiments`` is cheap.
"""
