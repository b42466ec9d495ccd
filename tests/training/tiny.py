"""A training run that takes a second: a LLaMA of 8,000 parameters on a few pages of text."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import subspace_lab as sl
from subspace_lab.training import PRESETS, Preset, TrainConfig

TINY = Preset(16, 24, 2, 2, vocab_size=300)
WORDS = ("the", "gradient", "of", "a", "layer", "lives", "in", "its", "core", "and", "little", "bulk", "so", "it", "is")
RUN = {
    "preset": "tiny",
    "steps": 12,
    "batch_size": 2,
    "accumulation": 2,
    "sequence_length": 16,
    "lr": 3e-3,
    "precision": "float32",
    "threads": 1,
    "every": 3,
    "checkpoint_every": 4,
    "eval_every": 5,
    "eval_batches": 2,
}


def register():
    """Make the tiny size known in this process."""
    PRESETS["tiny"] = TINY


def write_text(path: Path, *, num_words: int = 4000, seed: int = 0) -> Path:
    """A text file of random words in lines."""
    draw = random.Random(seed)
    lines = [" ".join(draw.choices(WORDS, k=10)) for _ in range(num_words // 10)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def tiny_config(data: Path, /, **changes) -> TrainConfig:
    """A configuration of the tiny model; changes override it."""
    return TrainConfig(**({**RUN, "data": str(data)} | changes))


@contextmanager
def run_with_checkpoints(directory: Path) -> Iterator[Path]:
    """A run with checkpoints after 4, 8 and 12 steps; within the context its text, cache and size are there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(directory / "cache"))
        patch.delenv("WORLD_SIZE", raising=False)
        patch.setitem(PRESETS, "tiny", TINY)
        text = write_text(directory / "words.txt", num_words=30_000)
        yield sl.train(directory / "run", tiny_config(text, keep_checkpoints=3))
