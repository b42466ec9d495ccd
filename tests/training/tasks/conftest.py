"""Small pretrained models and a file of rows, made once."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.training.tasks.small_models import CHAT, save_causal, save_encoder, write_rows

WORDS = ("red", "blue", "green", "cat", "dog", "house", "runs", "sleeps", "is", "not", "the", "a", "good", "bad")


@pytest.fixture(scope="session")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal model with a chat template."""
    return save_causal(tmp_path_factory.mktemp("chatty") / "model", chat=CHAT)


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal model without one."""
    return save_causal(tmp_path_factory.mktemp("plain") / "model")


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT."""
    return save_encoder(tmp_path_factory.mktemp("encoder") / "model", WORDS)


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts of all lengths with responses of all lengths."""
    draw = random.Random(0)
    made = [
        {
            "prompt": f"{' '.join(draw.choices(WORDS, k=draw.randint(1, 9)))} {number}?",
            "response": " ".join(draw.choices(WORDS, k=draw.randint(1, 7))),
        }
        for number in range(60)
    ]
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", made)
