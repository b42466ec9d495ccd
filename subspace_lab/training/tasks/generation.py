"""Replies of a model, the likeliest token at every place."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from subspace_lab.training.sharding import is_sharded


def replies(model: nn.Module, prompts: Sequence[Sequence[int]], new_tokens: int, *, end: int) -> list[list[int]]:
    """What a model writes after some prompts, greedily; a function of weights and prompts alone.

    The settings for generation that a pretrained model may carry (sampling, penalties) are not used.

    Args:
        model: A causal language model of transformers, in evaluation mode.
        prompts: Token numbers, at least one each.
        new_tokens: The most that are written; fewer where the longest prompt leaves the model no more positions.
        end: The token that ends a reply; it also fills shorter prompts from the left, where it is not attended to.

    Returns:
        Token numbers of each reply, without what comes after the end mark.
    """
    device = next(model.parameters()).device
    length = max(map(len, prompts))
    new_tokens = min(new_tokens, positions_of(model) - length)
    if new_tokens < 1 and not is_sharded(model):
        return [[] for _ in prompts]
    tokens = torch.full((len(prompts), length), end)
    mask = torch.zeros((len(prompts), length), dtype=torch.int64)
    for place, prompt in enumerate(prompts):
        tokens[place, length - len(prompt) :] = torch.tensor([*prompt])
        mask[place, length - len(prompt) :] = 1
    if new_tokens < 1:  # the other processes may have room: this one runs the model as often as they do
        _greedy(model, tokens[:, -1:].to(device), mask[:, -1:].to(device), 1, end)
        return [[] for _ in prompts]
    written = _greedy(model, tokens.to(device), mask.to(device), new_tokens, end)[:, length:]
    return [row[: row.index(end) + 1] if end in row else row for row in written.tolist()]


def positions_of(model: nn.Module) -> int:
    """How many tokens, prompt and reply, a model has positions for; the largest number where it does not say."""
    config: Any = model.config
    return int(getattr(config, "max_position_embeddings", None) or sys.maxsize)


def _greedy(model: Any, tokens: Tensor, mask: Tensor, new_tokens: int, end: int) -> Tensor:
    from transformers import GenerationConfig

    how = {"do_sample": False, "num_beams": 1, "use_cache": True, "max_new_tokens": new_tokens}
    own = model.generation_config
    model.generation_config = GenerationConfig()  # what is in the model's own is added to what is given
    try:
        together = {"synced_gpus": True} if is_sharded(model) else {}  # until all processes are through
        settings = GenerationConfig(**how, eos_token_id=end, pad_token_id=end)
        written: Tensor = model.generate(tokens, attention_mask=mask, generation_config=settings, **together)
    finally:
        model.generation_config = own
    return written
