"""What is planned, against sums by hand; nothing is written."""

from __future__ import annotations

import re

from subspace_lab.studies.grass_paper.plan import plan_lines

WIDTH, INNER, LAYERS, VOCABULARY = 2048, 5461, 24, 32_000


def test_the_tables_of_the_paper(tmp_path):
    lines = list(plan_lines(tmp_path / "paper", "paper", only=["tables"]))
    assert not list(tmp_path.iterdir())
    place = lines.index("# grasswalk, lr 0.0001, seed 0")
    rank = 512
    square, wide = WIDTH * rank + 2 * rank * WIDTH + 1, WIDTH * rank + 2 * rank * INNER + 1
    ends = 2 * VOCABULARY * WIDTH + WIDTH + 2 * LAYERS * WIDTH
    optimizer = 4 * (LAYERS * (4 * square + 3 * wide) + 2 * ends) + 4 * (3 + 2 * LAYERS)
    weights = 4 * (LAYERS * (4 * WIDTH**2 + 3 * WIDTH * INNER) + ends)
    told = lines[place + 1]
    assert f"{10_000 * 16 * 256:,} tokens" in told
    assert f"weights {weights / 1e9:.2f}, gradients {weights / 1e9:.2f}, optimizer {optimizer / 1e9:.2f}" in told
    command = lines[place + 2]
    assert command.startswith(
        "python -m torch.distributed.run --standalone --nproc-per-node=8 -m subspace_lab.experiments.executors.torchrun"
    )
    assert command.endswith(" grasswalk_lr0.0001_seed0")
    assert "# grasswalk llama-7b, lr 0.0001, seed 0" in lines


def test_every_training_is_listed_once(tmp_path):
    lines = list(plan_lines(tmp_path, "smoke"))
    commands = [line for line in lines if not line.startswith("#")]
    assert len(set(commands)) == len(commands)
    assert re.fullmatch(r"# 66 trainings, .* T tokens, with the 1 further seeds .*", lines[-1])
