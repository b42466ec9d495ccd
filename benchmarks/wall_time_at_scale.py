"""Overhead of every method over AdamW in one block of each LLaMA size with its published batch, rank and interval.

A block's forward and backward pass is timed with a part of the published tokens and multiplied, since its arithmetic is
proportional to them; an optimizer steps once per batch, whatever its size. Everything is float32 on this machine's
processor; take it on an idle one.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import torch

from benchmarks._contenders import Layers
from benchmarks._measure import alternate, publish_result
from benchmarks._step_times import ADAMW, CONTENDERS, REFRESHING, refresh_seconds, stepping
from subspace_lab.training.presets import Preset, preset

PRESETS = ("llama-60m", "llama-130m", "llama-350m", "llama-1b", "llama-3b", "llama-7b")
TOKENS = {"llama-60m": 2048, "llama-130m": 2048, "llama-350m": 1024, "llama-1b": 512, "llama-3b": 512, "llama-7b": 256}
SLACK = 1.35  # of the share of time that the two products of a dense basis take by their arithmetic
# SubTrack-Grad's and SubTrack++'s wall time over full rank (arXiv 2502.01586 v1 for 3B, v3 for 1B)
PUBLISHED = {
    "llama-1b": {"GaLore": 1729.5 / 974.9 - 1, "SubTrack": 1304.3 / 974.9 - 1, "LDAdam": 2780.9 / 974.9 - 1,
                 "Fira": 1938.5 / 974.9 - 1},
    "llama-3b": {"GaLore": 2715.5 / 1055.9 - 1, "SubTrack": 1517.6 / 1055.9 - 1, "LDAdam": 4625.4 / 1055.9 - 1,
                 "Fira": 2898.4 / 1055.9 - 1},
}  # fmt: skip


def block_of(size: Preset) -> torch.nn.Module:
    """One block with random weights, and the final norm, which is nothing beside it."""
    from transformers import LlamaConfig, LlamaModel

    config = LlamaConfig(
        hidden_size=size.hidden_size, intermediate_size=size.intermediate_size, num_hidden_layers=1, vocab_size=8,
        num_attention_heads=size.num_heads, num_key_value_heads=size.num_heads, rms_norm_eps=1e-6,
    )  # fmt: skip
    return LlamaModel(config)


def pass_seconds(size: Preset, tokens: int, rounds: int) -> list[float]:
    """Seconds of forward and backward passes of one block."""
    length = size.recipe.sequence_length
    model, hidden = block_of(size), torch.randn(max(1, tokens // length), min(length, tokens), size.hidden_size)

    def once() -> None:
        model(inputs_embeds=hidden).last_hidden_state.square().sum().backward()

    return alternate({"": once}, rounds)[""]


def measure(name: str, rounds: int) -> dict[str, Any]:
    """Of one size: seconds of the parts, and the overhead of every method."""
    size = preset(name)
    assert size.rank is not None
    assert size.update_interval is not None
    batch = size.recipe.batch_size * size.recipe.accumulation * size.recipe.sequence_length
    passes = statistics.median(pass_seconds(size, TOKENS[name], rounds)) * batch / TOKENS[name]
    layers = Layers.of(name, size.rank, blocks=1)
    seconds = stepping(CONTENDERS, layers, rounds)
    steps = {method: statistics.median(of) for method, of in seconds.items()}
    repeats = 1 if size.hidden_size > 2048 else 3
    refresh = {method: refresh_seconds(CONTENDERS[method], layers, repeats) for method in REFRESHING}
    amortised = {method: step + refresh.get(method, 0.0) / size.update_interval for method, step in steps.items()}
    whole = {method: passes + step for method, step in amortised.items()}
    return {
        "rank": size.rank, "update_interval": size.update_interval, "tokens": batch, "measured_tokens": TOKENS[name],
        "forward_backward_s": passes, "step_s": steps, "refresh_s": refresh, "amortised_s": amortised,
        "overhead": {method: value / whole[ADAMW] - 1 for method, value in whole.items()},
        "overhead_over_passes": {m: (value - amortised[ADAMW]) / passes for m, value in amortised.items()},
        "arithmetic_share": 4 * size.rank / (6 * batch), "published_overhead": PUBLISHED.get(name, {}),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--presets", nargs="+", default=list(PRESETS), choices=PRESETS)
    given = parser.parse_args()
    results: dict[str, Any] = {"threads": torch.get_num_threads(), "rounds": given.rounds}
    wanted: dict[str, tuple[float, str, float]] = {}
    for name in given.presets:
        found = results[name] = measure(name, given.rounds)
        bound = SLACK * found["arithmetic_share"]
        for method in ("GrassWalk", "GrassJump"):
            wanted[f"{method} over fused AdamW / forward and backward, {name}"] = (
                found["overhead_over_passes"][method], "<=", round(bound, 4),
            )  # fmt: skip
        print(name, {method: f"{value:+.1%}" for method, value in found["overhead"].items()}, flush=True)
    publish_result(results, wanted)


if __name__ == "__main__":
    main()
