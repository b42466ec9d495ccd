"""Attention is taken apart for second derivatives, and put together again."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import subspace_lab as sl
from subspace_lab.analysis.loss.attention import twice_differentiable_attention
from tests.analysis.loss.problems import attending, llama, llama_loss


def test_the_fused_kernel_has_no_second_derivative_and_the_math_one_has():
    model, ids = attending()
    weight = model.qkv.weight

    def product():
        (g,) = torch.autograd.grad(model.loss(model, ids), weight, create_graph=True)
        return torch.autograd.grad(g.sum(), weight)

    with pytest.raises(RuntimeError, match="derivative"):
        product()
    with twice_differentiable_attention(model):
        product()
    with pytest.raises(RuntimeError, match="derivative"):
        product()


@pytest.fixture
def custom():
    """A llama that attends by a function of the user's own, without second derivative."""
    transformers = pytest.importorskip("transformers")
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    transformers.AttentionInterface.register("mine", sdpa_attention_forward)
    model, batch = llama()
    model.set_attn_implementation("mine")
    return model, batch


def test_attention_of_the_user_is_replaced_and_given_back(custom):
    model, batch = custom
    ways = []

    def loss(model, batch):
        ways.append(model.config._attn_implementation)
        return llama_loss(model, batch)

    table = sl.analysis.hessian(model, loss, batch, k=1)
    assert set(ways) == {"eager"}
    assert model.config._attn_implementation == "mine"
    assert table.attrs["attention"].endswith("; eager in the place of mine")
    expected = sl.analysis.hessian(llama()[0], llama_loss, batch, k=1)
    assert table["eigenvalue"].tolist() == pytest.approx(expected["eigenvalue"].tolist(), rel=1e-3)


def test_it_is_given_back_when_the_loss_fails(custom):
    model, batch = custom
    with pytest.raises(ValueError, match="scalar"):
        sl.analysis.hessian(model, lambda m, b: m(**b).logits, batch)
    assert model.config._attn_implementation == "mine"


def test_a_model_without_attention_is_left_alone():
    with twice_differentiable_attention(nn.Linear(2, 2)) as said:
        assert said == "math kernel of scaled_dot_product_attention"
