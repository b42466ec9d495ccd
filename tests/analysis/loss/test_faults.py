"""What has no Hessian is refused, in one line with the reason."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import subspace_lab as sl
from tests.analysis.loss.problems import Quadratic, attending, llama, llama_loss, softmax_problem


def refused(match, model, loss, batch, *arguments, **settings):
    with pytest.raises(ValueError, match=match) as caught:
        sl.analysis.hessian(model, loss, batch, *arguments, **settings)
    assert "\n" not in str(caught.value)


def mean(model, x):
    return model(x).square().mean()


def test_dropout():
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.1))
    refused(r"^1 \(Dropout\) drops at random.*eval\(\)", model, mean, torch.ones(4, 3))
    assert len(sl.analysis.hessian(model.eval(), mean, torch.ones(4, 3), k=1)) == 1
    assert len(sl.analysis.hessian(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.0)), mean, torch.ones(4, 3), k=1)) == 1


def test_dropout_of_an_attention():
    refused("MultiheadAttention", nn.MultiheadAttention(4, 2, dropout=0.1), mean, torch.ones(2, 3, 4))
    model, batch = llama(attention_dropout=0.3)  # of no module, but in the attention
    refused("two evaluations of the loss.*random", model.train(), llama_loss, batch)


def test_batch_normalization():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    refused("1 is a BatchNorm1d in training mode: its statistics", model, mean, torch.randn(4, 3))
    assert len(sl.analysis.hessian(model.eval(), mean, torch.randn(4, 3), k=1)) == 1


def test_losses():
    model, batch = softmax_problem()
    refused(r"shape \(24, 6\), a scalar", model, lambda m, b: m.linear(b["x"]), batch)
    refused("returned a float", model, lambda m, b: 1.0, batch)
    refused("does not depend", model, lambda m, b: torch.zeros(()), batch)
    refused("the loss is nan", model, lambda m, b: m.loss(m, b) * torch.nan, batch)
    refused("random", model, lambda m, b: m.loss(m, b) + torch.rand(()), batch)
    model, batch = llama()
    refused("return its .loss", model, lambda m, b: m(**b), batch)


def test_no_mean_over_examples():
    model, batch = softmax_problem()
    refused(
        "it is not a mean over",
        model,
        lambda m, b: len(b["x"]) * m.loss(m, b),
        batch,
        micro_batch=5,
    )


class Detached(torch.autograd.Function):
    """The square, whose backward is not differentiable."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] * gradient


def alignment(model, batch):
    one, four = torch.tensor([1]), torch.tensor([3])
    return nn.functional.ctc_loss(model.weight.log_softmax(1)[:, None], one[None], four, one)


def test_no_second_derivative():
    model = nn.Linear(4, 3)
    with_bias = "bias has no second derivative: its gradient does not depend on it"
    refused(with_bias, model, lambda m, x: m.weight.square().sum() + m.bias.sum(), None, k=1)
    refused("weight has no second derivative: its", model, lambda m, x: Detached.apply(m.weight).sum(), None, "weight")
    refused("weight has no second derivative: its", model,
            lambda m, x: Detached.apply(m.weight).square().sum(), None, "weight")  # fmt: skip
    refused("weight has no second derivative: .*ctc_loss_backward is not implemented", model, alignment, None, "weight")
    refused("the loss does not depend on bias", model, lambda m, x: m.weight.square().sum(), None, "bias", k=1)


def test_a_parameter_that_is_not_used_counts_as_zero_among_others():
    table = sl.analysis.hessian(nn.Linear(3, 2), lambda m, x: m.weight.square().sum() / 2, None, k=8)
    assert table["eigenvalue"].tolist() == pytest.approx([1] * 6 + [0, 0])


def test_arguments():
    model, batch = softmax_problem()
    refused("k=55 is larger than model, which has 54 parameters", model, model.loss, batch, k=55)
    refused("'linear.wieght' matches no trainable parameter of Softmax; nearest: linear.weight", model, model.loss,
            batch, "linear.wieght")  # fmt: skip
    refused("layers is empty", model, model.loss, batch, ())
    refused("k must be a whole number of at least 1, got 0", model, model.loss, batch, k=0)
    refused("tol must be", model, model.loss, batch, tol=2)
    refused("cannot be cut into examples", model, model.loss, "words", micro_batch=2)
    refused("first dimensions", model, model.loss, {"x": torch.ones(2, 3), "y": torch.ones(3)}, micro_batch=1)
    refused("must be a torch.nn.Module", "model", model.loss, batch)
    refused("no trainable parameter", model.requires_grad_(False), model.loss, batch)
    with pytest.raises(ValueError, match="trace_samples must be a whole number of at least 2"):
        sl.analysis.loss_curvature(model.requires_grad_(True), model.loss, batch, trace_samples=1)


def test_weights_that_are_not_finite():
    model = Quadratic.of(torch.ones(30))
    with torch.no_grad():
        model.w[0] = torch.inf
    refused("not finite|the loss is", model, model.loss, None, k=1)


def test_attention_is_given_back_after_an_error():
    model, ids = attending()
    seen = []

    def failing(model, batch):
        seen.append(torch.backends.cuda.flash_sdp_enabled())
        if len(seen) > 2:
            raise KeyError("mine")
        return model.loss(model, batch)

    with pytest.raises(KeyError, match="mine"):
        sl.analysis.hessian(model, failing, ids)
    assert seen == [False, False, False]
    assert torch.backends.cuda.flash_sdp_enabled()
