"""A LLaMA of a preset's size, and one real backward pass through it."""

from __future__ import annotations

import torch
from torch import Tensor

from subspace_lab.training.presets import preset

LINEARS = ("*.self_attn.*", "*.mlp.*")


def build(name: str) -> torch.nn.Module:
    """The model at its random initialization."""
    from transformers import LlamaConfig, LlamaForCausalLM

    size = preset(name)
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=size.hidden_size,
            intermediate_size=size.intermediate_size,
            num_hidden_layers=size.num_layers,
            num_attention_heads=size.num_heads,
            vocab_size=size.vocab_size,
            rms_norm_eps=1e-6,
            use_cache=False,
        )
    )


def backward(model: torch.nn.Module, sequences: int = 8, tokens: int = 128) -> Tensor:
    """One forward and backward pass on random tokens; returns the loss."""
    vocab_size = model.get_input_embeddings().num_embeddings
    ids = torch.randint(vocab_size, (sequences, tokens), generator=torch.Generator().manual_seed(1))
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    return loss.detach()
