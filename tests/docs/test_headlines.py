"""The numbers that the README begins with are those of the committed table."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
ROWS = {
    "AdamW, with 2.7 times the optimizer state": "adamw",
    "GaLore, at the same state": "galore",
    "a random basis that never moves, in GrassJump's place": "random basis, never moved",
}


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return pd.read_csv(ROOT / "results" / "grass_paper" / "tables" / "tables.csv").set_index("method")


@pytest.mark.parametrize(("text", "method"), ROWS.items())
def test_a_headline_is_a_row_of_the_table(text: str, method: str, table: pd.DataFrame) -> None:
    assert table.index[0] == "grassjump"
    found = re.search(rf"^\| {re.escape(text)} \| (\S+) \[(\S+), (\S+)\] \|$", (ROOT / "README.md").read_text(), re.M)
    assert found
    row = table.loc[method]
    assert found.groups() == tuple(f"{row[name]:+.3f}" for name in ("gap", "gap_low", "gap_high"))


def test_what_the_text_says_of_the_state_and_of_the_seeds(table: pd.DataFrame) -> None:
    assert f"{table.loc['adamw', 'state_bytes'] / table.loc['grassjump', 'state_bytes']:.1f}" == "2.7"
    assert table.loc["galore", "state_bytes"] == pytest.approx(table.loc["grassjump", "state_bytes"], rel=1e-4)
    assert set(table["seeds"]) == {5}


def test_what_the_text_says_of_the_larger_model() -> None:
    losses = pd.read_csv(ROOT / "results" / "grass_paper" / "tables" / "larger.csv").set_index("method")["eval_loss"]
    adamw, jump, apollo = (losses[f"{name} llama-7m"] for name in ("adamw", "grassjump", "apollo"))
    text = " ".join((ROOT / "README.md").read_text().split())
    assert f"GrassJump's mean is {adamw - jump:.3f} nats below AdamW's" in text
    assert f"APOLLO's mean is {jump - apollo:.3f} below GrassJump's" in text
