"""Checkpoints: everything comes back bit for bit, and nothing in them can execute code."""

import resource

import pytest
import torch

from subspace_lab.runs import RunError
from subspace_lab.training.checkpoint import (
    checkpoint_path,
    checkpoint_steps,
    load_checkpoint,
    load_model,
    save_checkpoint,
)


class Odd(torch.optim.Optimizer):
    """An optimizer with every kind of state that is allowed."""

    def __init__(self, parameters, lr=0.1):
        super().__init__(parameters, {"lr": lr, "betas": (0.9, 0.99), "name": "odd", "rank": None})

    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                state["step"] = state.get("step", 0) + 1
                state["rule"] = "walk"
                state["norm"] = 0.1 + 0.2
                state["indices"] = torch.arange(3)
                state["half"] = parameter.detach().bfloat16()
                parameter.data.add_(parameter.grad, alpha=-group["lr"])


OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, fused=True),
    "amsgrad": lambda p: torch.optim.Adam(p, amsgrad=True),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "odd": Odd,
}


def model(seed=0, width=6):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.BatchNorm1d(width), torch.nn.Linear(width, 1))


def steps(net, optimizer, count, seed=0):
    for step in range(count):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(seed + step))
        net(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_bit_for_bit(tmp_path, name):
    net = model()
    optimizer = OPTIMIZERS[name](net.parameters())
    steps(net, optimizer, 3)
    save_checkpoint(tmp_path, 3, net, optimizer)
    again = model(seed=1)
    resumed = OPTIMIZERS[name](again.parameters())
    assert load_checkpoint(tmp_path, again, resumed) == 3
    assert resumed.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]
    for n, o in ((net, optimizer), (again, resumed)):
        steps(n, o, 3, seed=10)
    for before, after in zip(net.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(before, after)
    states = (optimizer.state_dict()["state"], resumed.state_dict()["state"])
    assert states[0].keys() == states[1].keys()
    for index in states[0]:
        before, after = states[0][index], states[1][index]
        assert [(key, type(value)) for key, value in before.items()] == [(key, type(after[key])) for key in before]
        assert all(torch.equal(torch.as_tensor(value), torch.as_tensor(after[key])) for key, value in before.items()
                   if key != "rule")  # fmt: skip
        assert before.get("rule") == after.get("rule")


def test_the_last_two_are_kept_and_the_last_is_loaded(tmp_path):
    net = model()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    for step in (2, 4, 6, 100_000_000):
        save_checkpoint(tmp_path, step, net, optimizer)
    assert checkpoint_steps(tmp_path) == [6, 100_000_000]
    assert load_checkpoint(tmp_path, net, optimizer) == 100_000_000
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "step_00000006.safetensors",
        "step_100000000.safetensors",
    ]


def test_without_a_checkpoint_nothing_is_changed(tmp_path):
    net = model()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    assert load_checkpoint(tmp_path, net, OPTIMIZERS["sgd"](net.parameters())) == 0
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_tied_weights_are_kept_once(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}

    def tied(seed):
        torch.manual_seed(seed)
        return LlamaForCausalLM(LlamaConfig(vocab_size=500, tie_word_embeddings=True, **sizes))

    net, again = tied(0), tied(1)
    save_checkpoint(tmp_path, 1, net, OPTIMIZERS["sgd"](net.parameters()))
    numbers = sum(parameter.numel() for parameter in net.parameters())
    size = checkpoint_path(tmp_path, 1).stat().st_size
    assert numbers * 4 < size < numbers * 4 + 8000
    load_checkpoint(tmp_path, again, OPTIMIZERS["sgd"](again.parameters()))
    assert torch.equal(again.lm_head.weight, net.lm_head.weight)
    assert again.lm_head.weight is again.model.embed_tokens.weight


def test_torn_altered_and_foreign_checkpoints_are_refused(tmp_path):
    net = model()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    save_checkpoint(tmp_path, 1, net, optimizer)
    other = model(width=7)
    with pytest.raises(RunError, match=r"is of another model: 0\.weight is missing or of another shape"):
        load_checkpoint(tmp_path, other, OPTIMIZERS["sgd"](other.parameters()))
    path = checkpoint_path(tmp_path, 1)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(RunError, match="was altered"):
        load_checkpoint(tmp_path, net, optimizer)
    path.write_bytes(whole[:-10])
    with pytest.raises(RunError, match="is torn"):
        load_checkpoint(tmp_path, net, optimizer)


def test_state_that_is_no_tensor_and_no_plain_value_is_refused(tmp_path):
    net = model()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    optimizer.state[net[0].weight]["function"] = print
    with pytest.raises(ValueError, match=r"the state of SGD holds more than tensors and plain values \("):
        save_checkpoint(tmp_path, 1, net, optimizer)
    assert not checkpoint_steps(tmp_path)


def test_a_full_disk_is_one_line_and_the_checkpoint_before_stays(tmp_path):
    net = model()
    optimizer = OPTIMIZERS["momentum"](net.parameters())
    steps(net, optimizer, 1)
    save_checkpoint(tmp_path, 1, net, optimizer)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, limits[1]))
    try:
        with pytest.raises(RunError, match=r"cannot write .*step_00000002\.safetensors: .*; free some space") as caught:
            save_checkpoint(tmp_path, 2, net, optimizer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000001.safetensors"]
    assert load_checkpoint(tmp_path, net, optimizer) == 1


def test_an_optimizer_of_other_groups_is_said_in_one_line(tmp_path):
    """As from a plan that was changed in between."""
    model = torch.nn.Linear(3, 2)
    save_checkpoint(tmp_path, 1, model, torch.optim.AdamW(model.parameters()))
    other = torch.optim.AdamW([{"params": [model.weight]}, {"params": [model.bias]}])
    with pytest.raises(
        RunError, match=r"has an optimizer of 1 groups, now there are 2; .* put the plan back as it was"
    ):
        load_checkpoint(tmp_path, model, other)


@pytest.mark.parametrize("place", [-1, -40])
def test_an_altered_checkpoint_is_neither_measured_nor_resumed(tmp_path, place):
    """One bit of a weight: the file reads well, only the checksum knows."""
    model = torch.nn.Linear(8, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    save_checkpoint(tmp_path, 3, model, optimizer)
    path = checkpoint_path(tmp_path, 3)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    before = model.weight.clone()
    for load in (lambda: load_model(tmp_path, 3, model), lambda: load_checkpoint(tmp_path, model, optimizer)):
        with pytest.raises(RunError, match="was altered: checksum"):
            load()
    assert torch.equal(model.weight, before)
