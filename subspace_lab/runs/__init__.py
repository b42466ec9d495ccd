"""The run directory: manifest, snapshots, metrics, tables; reading and writing, nothing else.

Layout (``docs/reference.md`` has every field)::

    run_dir/
      manifest.json                           what was captured, how and where
      metrics.jsonl                           one line per step
      snapshots/step_00000120.safetensors     one file per captured step
      checkpoints/                            model, optimizer and data position
      analysis/*.parquet                      tidy tables
      figures/  report.html

safetensors, JSON and parquet only: nothing in a run directory can execute code when it is opened. Everything is
written aside, flushed to disk and renamed, so that a file that is there is whole.
"""

from subspace_lab.runs.environment import environment
from subspace_lab.runs.errors import RunError, RunLostError
from subspace_lab.runs.run import Run
from subspace_lab.runs.writer import RunWriter

__all__ = ["Run", "RunError", "RunLostError", "RunWriter", "environment"]
