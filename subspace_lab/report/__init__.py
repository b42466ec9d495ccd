"""The HTML report of a run: one self-contained file that opens from disk."""

from subspace_lab.report.write import write_report

__all__ = ["write_report"]
