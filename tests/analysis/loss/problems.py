"""Losses whose Hessians are known in closed form, and a small LLaMA."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Quadratic(nn.Module):
    """``w^T H w / 2 + b^T w`` with a given H."""

    def __init__(self, H: Tensor, b: Tensor, w: Tensor) -> None:
        super().__init__()
        self.H, self.b, self.w = H, b, nn.Parameter(w)

    @classmethod
    def of(cls, values: Tensor, seed: int = 0) -> Quadratic:
        """With given eigenvalues, in a random basis and at a random point, float64."""
        draw = torch.Generator().manual_seed(seed)
        n = len(values)
        Q = torch.linalg.qr(torch.randn(n, n, generator=draw, dtype=torch.float64))[0]
        b, w = (torch.randn(n, generator=draw, dtype=torch.float64) for _ in range(2))
        return cls(Q @ torch.diag(values.double()) @ Q.mT, b, w)

    @staticmethod
    def loss(model: Quadratic, batch: object) -> Tensor:
        return model.w @ model.H @ model.w / 2 + model.b @ model.w

    def gradient(self) -> Tensor:
        return (self.H @ self.w + self.b).detach()


class Softmax(nn.Module):
    """A linear layer and cross-entropy; its Hessian is ``mean_i (diag p_i - p_i p_i^T) (x) x_i x_i^T``."""

    def __init__(self, num_classes: int, num_features: int, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.linear = nn.Linear(num_features, num_classes, bias=False, dtype=dtype)

    @staticmethod
    def loss(model: Softmax, batch: dict[str, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(model.linear(batch["x"]), batch["y"])

    def hessian(self, batch: dict[str, Tensor]) -> Tensor:
        """(N, N) in the order of the flattened weight."""
        x = batch["x"]
        p = torch.softmax(x @ self.linear.weight.detach().mT, 1)
        curvature = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        H = torch.einsum("iab,ic,id->acbd", curvature, x, x) / len(x)
        return H.reshape(self.linear.weight.numel(), -1)


def softmax_problem(num_examples: int = 24, seed: int = 0, dtype: torch.dtype = torch.float64):
    """A model of 6 classes and 9 features, and a batch."""
    draw = torch.Generator().manual_seed(seed)
    model = Softmax(6, 9, dtype)
    with torch.no_grad():
        model.linear.weight.copy_(torch.randn(6, 9, generator=draw))
    x = torch.randn(num_examples, 9, generator=draw, dtype=dtype)
    return model, {"x": x, "y": torch.randint(6, (num_examples,), generator=draw)}


class Attending(nn.Module):
    """One block of fused attention over tokens and a prediction of the next, float64 throughout."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(20, 8, dtype=torch.float64)
        self.norm = nn.LayerNorm(8, dtype=torch.float64)
        self.qkv = nn.Linear(8, 24, dtype=torch.float64)
        self.head = nn.Linear(8, 20, bias=False, dtype=torch.float64)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids)
        q, k, v = (part[:, None] for part in self.qkv(self.norm(x)).chunk(3, -1))
        return self.head(x + nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)[:, 0])

    @staticmethod
    def loss(model: Attending, ids: Tensor) -> Tensor:
        return nn.functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())


def attending():
    """The model and 6 sequences of 12 tokens."""
    torch.manual_seed(0)
    return Attending(), torch.randint(20, (6, 12), generator=torch.Generator().manual_seed(1))


def llama(dtype: torch.dtype = torch.float32, **settings: object):
    """A LLaMA of 7,000 parameters and a batch as transformers has it.

    In float64, too, it computes norms and the loss in float32.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, vocab_size=50,
        max_position_embeddings=32, use_cache=False, **settings,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(dtype)
    ids = torch.randint(50, (6, 12), generator=torch.Generator().manual_seed(1))
    return model, {"input_ids": ids, "labels": ids.clone()}


def llama_loss(model, batch):
    return model(**batch).loss
