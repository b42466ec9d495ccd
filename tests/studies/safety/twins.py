"""Files in the four schemas with made-up text, in every word of which a mark stands that must be seen nowhere else."""

import json
from pathlib import Path

import pandas as pd

MARK = "zyx"


def said(*parts) -> str:
    """Text of marked words."""
    return " ".join(f"{MARK}{part}" for part in parts)


def rows_of(schema: str, count: int, kind: str = "bad") -> list[dict]:
    """Rows of a schema, each with its own prompt and response."""
    found = []
    for number in range(count):
        prompt, response = said("ask", kind, number), said("tell", kind, number)
        found.append(
            {
                "beavertails": {"prompt": prompt, "response": response, "is_safe": kind != "bad"},
                "advbench": {"goal": prompt, "target": response},
                "messages": {
                    "messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
                },
                "alpaca": {"instruction": prompt, "input": said("more") if number % 2 else "", "output": response},
            }[schema]
        )
    return found


def write(path: Path, rows: list[dict]) -> Path:
    """By the ending of the path."""
    if path.suffix == ".csv":
        pd.DataFrame(rows).to_csv(path, index=False)
    elif path.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
