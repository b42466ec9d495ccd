"""What is in a file of rows, without any of its text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median

from subspace_lab.runs.files import file_hash
from subspace_lab.studies.safety.schemas import COLUMNS, Schema, distinct, read_rows


@dataclass(frozen=True)
class Audit:
    """What is known of a file.

    Attributes:
        path: Of the file.
        schema: By which it was read.
        sha256: Of its bytes.
        size: In bytes.
        rows: How many.
        columns: Their names, of the schema only.
        duplicates: Rows whose prompt stood before.
        unsafe: Rows whose response the file says to be unsafe; None where the schema does not say.
        median_prompt_chars: Half of the prompts are longer.
        median_response_chars: Half of the responses are longer.
    """

    path: Path
    schema: Schema
    sha256: str
    size: int
    rows: int
    columns: tuple[str, ...]
    duplicates: int
    unsafe: int | None
    median_prompt_chars: float
    median_response_chars: float

    def lines(self) -> list[str]:
        """For people, a line per fact."""
        said = "" if self.unsafe is None else f", {self.unsafe} of them unsafe"
        return [
            f"{self.path}: {self.rows} rows of schema {self.schema}{said}",
            f"columns: {', '.join(self.columns)}",
            f"SHA-256: {self.sha256} ({self.size} bytes)",
            f"duplicate prompts: {self.duplicates}",
            f"median characters: prompt {self.median_prompt_chars:g}, response {self.median_response_chars:g}",
        ]


def audit(path: str | Path, *, schema: Schema) -> Audit:
    """Read a file by a schema, and say what is in it.

    Args:
        path: A csv, tsv, jsonl, json or parquet file.
        schema: ``beavertails``, ``advbench``, ``messages`` or ``alpaca``.

    Returns:
        Numbers, hash and names of columns.

    Raises:
        ValueError: If the file cannot be read by that schema; one line, without any text of the file.
    """
    path = Path(path).expanduser()
    rows = read_rows(path, schema)
    unsafe = [one.is_safe for one in rows if one.is_safe is not None]
    return Audit(
        path=path,
        schema=schema,
        sha256=file_hash(path),
        size=path.stat().st_size,
        rows=len(rows),
        columns=tuple(COLUMNS[schema]),
        duplicates=len(rows) - len(distinct(rows)),
        unsafe=unsafe.count(False) if unsafe else None,
        median_prompt_chars=median(len(one.row.prompt) for one in rows),
        median_response_chars=median(len(one.row.response) for one in rows),
    )
