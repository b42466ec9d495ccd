"""Seconds of a fine-tuning step by method, in RoBERTa-base's shapes at rank 8, for many tokens in a step and for few.

The model has random weights. The projected methods take the matrices of attention and MLP; embeddings, norms and head
are fused AdamW's in every method but LoRA, whose own step is timed whole. Refreshes are amortised over intervals,
since the decompositions of GaLore are what the published gain is over. Take it on an idle machine.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks._contenders import Layers
from benchmarks._measure import alternate, publish_result
from benchmarks._step_times import ADAMW, CONTENDERS, REFRESHING, refresh_seconds, stepping

RANK, INTERVALS = 8, (50, 200, 500)
METHODS = (ADAMW, "BAdam", "GaLore", "LDAdam", "SubTrack", "GrassWalk", "GrassJump", "galore-torch")
TOKENS = ((16, 128), (16, 32), (16, 8))  # rows x tokens of a step
PUBLISHED = {"GLUE": -0.15, "SuperGLUE": -0.22}  # SubTrack-Grad's wall time against GaLore, arXiv 2502.01586 v1
_LORA_TARGETS = ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"]


def model_of() -> torch.nn.Module:
    """RoBERTa-base for two classes."""
    from transformers import RobertaConfig, RobertaForSequenceClassification

    config = RobertaConfig(
        vocab_size=50_265, hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072,
        max_position_embeddings=514, type_vocab_size=1, num_labels=2,
    )  # fmt: skip
    return RobertaForSequenceClassification(config)


def with_lora(model: torch.nn.Module) -> torch.nn.Module:
    """The same with adapters of the same rank, the only weights that are trained."""
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(r=RANK, target_modules=_LORA_TARGETS, task_type="SEQ_CLS"))


def pass_of(model: torch.nn.Module, rows: int, tokens: int) -> Callable[[], Tensor]:
    """One forward and backward pass on random tokens."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(10, 50_000, (rows, tokens), generator=generator)
    labels = torch.randint(2, (rows,), generator=generator)

    def once() -> Tensor:
        model.zero_grad()
        loss: Tensor = model(input_ids=ids, labels=labels).loss
        loss.backward()
        return loss.detach()

    return once


def _is_projected(name: str, p: Tensor) -> bool:
    return p.ndim == 2 and "encoder.layer" in name


def measure(rounds: int) -> dict[str, Any]:
    """Seconds of the parts, and of whole steps by tokens per step, interval and method."""
    torch.manual_seed(0)
    model = model_of()
    shapes = [tuple(p.shape) for name, p in model.named_parameters() if _is_projected(name, p)]
    rest = [p for name, p in model.named_parameters() if not _is_projected(name, p)]
    passes = {f"{rows} x {tokens}": pass_of(model, rows, tokens) for rows, tokens in TOKENS}
    seconds = {name: statistics.median(of) for name, of in alternate(passes, rounds).items()}
    adapted = with_lora(model_of())
    lora_step = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-4, fused=True).step
    lora = {f"{rows} x {tokens}": pass_of(adapted, rows, tokens) for rows, tokens in TOKENS}
    lora_seconds = {name: statistics.median(of) for name, of in alternate(lora, rounds).items()}
    others = torch.optim.AdamW(rest, lr=1e-4, fused=True)
    own = alternate({"rest": others.step, "LoRA": lora_step}, rounds)
    rest_s, lora_step_s = (statistics.median(own[name]) for name in ("rest", "LoRA"))
    layers = Layers.of_shapes("roberta-base", shapes, RANK)
    contenders = {name: CONTENDERS[name] for name in METHODS}
    steps = {name: statistics.median(of) for name, of in stepping(contenders, layers, rounds).items()}
    refresh = {name: refresh_seconds(CONTENDERS[name], layers, rounds) for name in METHODS if name in REFRESHING}
    whole = {
        size: {
            str(interval): {
                **{name: value + rest_s + step + refresh.get(name, 0.0) / interval for name, step in steps.items()},
                "LoRA": lora_seconds[size] + lora_step_s,
            }
            for interval in INTERVALS
        }
        for size, value in seconds.items()
    }
    return {
        "model": "RoBERTa-base, random weights", "rank": RANK, "forward_backward_s": seconds, "step_s": steps,
        "refresh_s": refresh, "step_of_the_rest_s": rest_s, "lora_forward_backward_s": lora_seconds,
        "lora_step_s": lora_step_s, "whole_step_s": whole, "published_against_GaLore": PUBLISHED,
        "against": {
            peer: {
                size: {i: {m: of[m] / of[peer] - 1 for m in of if m != peer} for i, of in by_interval.items()}
                for size, by_interval in whole.items()
            }
            for peer in (ADAMW, "galore-torch")
        },
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    results = {"threads": torch.get_num_threads(), "rounds": rounds, **measure(rounds)}
    against = results["against"]["galore-torch"]
    wanted = {
        f"{method} / galore-torch at {size} tokens, a refresh every {interval} steps": (
            1 + against[size][str(interval)][method], "<=", 0.85
        )
        for size in ("16 x 128", "16 x 8") for interval in INTERVALS[:2] for method in ("GrassWalk", "GrassJump")
    }  # fmt: skip
    publish_result(results, wanted)


if __name__ == "__main__":
    main()
