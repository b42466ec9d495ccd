"""Small models, and gradients computed apart from the training that is captured."""

import copy

import torch
from torch import nn


def relative_error(got, expected):
    """Frobenius norm of the difference over that of what is expected, in float64."""
    return float((got.double() - expected.double()).norm() / expected.double().norm())


def context(run, step):
    """What a snapshot says beside its gradients."""
    with run.snapshot(step) as snapshot:
        return snapshot.context


def files(directory):
    """Relative path -> content of every file below a directory."""
    paths = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in paths}


def mean_gradients(model, loss_fn, micro_batches):
    """Name -> gradient of the mean loss over micro-batches, on a copy of the model, by `torch.autograd.grad`."""
    replica = copy.deepcopy(model)
    names, parameters = zip(*((n, p) for n, p in replica.named_parameters() if p.requires_grad), strict=True)
    loss = sum(loss_fn(replica, batch) for batch in micro_batches) / len(micro_batches)
    return dict(zip(names, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True))


def mlp(seed=0):
    """Two linear layers, (12, 8) and (4, 12), without numbers in their names."""
    torch.manual_seed(seed)
    return nn.ModuleDict({"up_proj": nn.Linear(8, 12), "down_proj": nn.Linear(12, 4)})


def mlp_loss(model, batch):
    """Mean squared error of the MLP on a batch (inputs, targets)."""
    inputs, targets = batch
    return (model["down_proj"](torch.tanh(model["up_proj"](inputs))) - targets).square().mean()


def batches(count, seed=1, size=6):
    """Batches for the MLP."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, 8, generator=generator), torch.randn(size, 4, generator=generator)) for _ in range(count)
    ]


def train(model, optimizer, data, capture=None, after=None):
    """A plain loop of one batch a step."""
    for number, batch in enumerate(data):
        loss = mlp_loss(model, batch)
        loss.backward()
        if capture is not None:
            capture.log(loss=loss)
        optimizer.step()
        optimizer.zero_grad()
        if after is not None:
            after(number)


def tiny_llama(**options):
    """A LLaMA of two blocks."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {
        "vocab_size": 29,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    return LlamaForCausalLM(LlamaConfig(**sizes, max_position_embeddings=16, **options))


def tiny_gpt2():
    """A GPT-2 of two blocks without dropout; its head is tied to its embedding."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    rates = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=29, n_embd=16, n_layer=2, n_head=2, n_positions=16, **rates))


class ConvNet(nn.Module):
    """Two convolutions, a batch norm and a linear layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 5, (3, 2), groups=1)
        )
        self.head = nn.Linear(5, 7)

    def forward(self, images):
        return self.head(self.features(images).mean((2, 3)))
