"""The recipes for Accelerate, the Hugging Face Trainer and Lightning on two processes, against a loop in one."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from subspace_lab import optim
from tests.launch import launch_all
from tests.optim.sharded.recipes import METHODS, recipe, run

pytestmark = pytest.mark.slow

TARGETS = ("accelerate", "accelerate_cpu", "trainer", "lightning")
STEPS, BATCH, RANK, CLIP = 8, 8, 4, 1.0
FRESH = {"TORCHELASTIC_RUN_ID": "recipes"}  # by which Lightning knows torchrun


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Weights by trainer, and by method."""
    folders = {target: tmp_path_factory.mktemp(target) for target in TARGETS}
    calls = [(f"tests.optim.sharded.recipes:{target}", 2, (folder,), FRESH) for target, folder in folders.items()]
    for target, (statuses, log) in zip(TARGETS, launch_all(calls), strict=True):
        assert set(statuses) == {0}, f"{target}: {log[-3000:]}"
    return {target: torch.load(folder / "found.pt") for target, folder in folders.items()}


def one_process(model, losses, method, **options):
    """Weights after each step of a plain loop, clipped at each of them."""
    optimizer = getattr(optim, method)(optim.param_groups(model, rank=RANK, **options), lr=1e-2, update_interval=3)
    weights = []
    for loss in losses:
        loss(model).backward()
        assert torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP) > CLIP
        optimizer.step()
        optimizer.zero_grad()
        weights.append({name: p.detach().clone() for name, p in model.named_parameters()})
    return weights


@pytest.fixture
def double():
    yield
    torch.set_default_dtype(torch.float32)


def in_order(_epoch, number):
    return torch.arange(number)


def as_lightning_shuffles(epoch, number):
    """What it does on several processes, also to a loader that does not shuffle."""
    return torch.randperm(number, generator=torch.Generator().manual_seed(epoch))


class Module(torch.nn.Module):
    """Names as in the module of Lightning, which random bases are drawn by."""

    def __init__(self, net):
        super().__init__()
        self.net = net
        self.forward = net.forward


REGRESSIONS = {
    "accelerate": {"order": in_order, "within": lambda net: net},
    "lightning": {"order": as_lightning_shuffles, "within": Module},
}


def of_regression(method, *, order, within, **options):
    """Of the model and the data of the page, over two epochs."""
    needed, _ = recipe("Accelerator", method)
    names = run(needed)
    x, y = (torch.stack(part) for part in zip(*names["dataset"], strict=True))
    rows = [batch for epoch in range(2) for batch in order(epoch, len(x)).split(BATCH)]
    losses = [lambda model, of=of: (model(x[of]) - y[of]).square().mean() for of in rows]
    return one_process(within(names["build"]()), losses, method, **options)


def of_llama(method):
    """Of the model and the examples that the Trainer's recipe draws."""
    needed, text = recipe("LlamaConfig", method)
    names = run(needed, text.split("arguments =")[0])
    tokens = torch.stack([example["input_ids"] for example in names["examples"]])

    def loss(model, rows):
        logits = model(input_ids=rows).logits[:, :-1].float()  # as transformers does
        return cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())

    losses = [lambda model, rows=rows: loss(model, rows) for rows in tokens.split(BATCH)]
    return one_process(names["model"], losses, method)


def check(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert tensor.dtype == torch.float64
        torch.testing.assert_close(
            found[name], tensor, rtol=0, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("target", REGRESSIONS)
def test_two_processes_through_a_trainer_are_one_process(target, method, found, double):
    """Through refreshes and clipping, and the second epoch from the checkpoint of the first one."""
    expected = of_regression(method, **REGRESSIONS[target])
    check(found[target][method], expected[STEPS - 1])
    check(found[target][f"{method}/resumed"], expected[-1])


@pytest.mark.parametrize("method", METHODS)
def test_the_side_that_is_not_sharded_is_asked_for_after_accelerate_has_prepared(method, found, double):
    """Rows are sharded, columns projected."""
    check(
        found["accelerate"][f"{method}/side"],
        of_regression(method, **REGRESSIONS["accelerate"], side="right")[STEPS - 1],
    )


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_through_the_trainer_of_transformers_are_one_process(method, found, double):
    expected = of_llama(method)
    check(found["trainer"][method], expected[STEPS - 1])
    check(found["trainer"][f"{method}/resumed"], expected[STEPS - 1])


def test_on_the_cpu_accelerate_leaves_fsdp_out(found, double):
    """It trains by DDP, with a plugin that nobody reads: this is what the page says."""
    check(found["accelerate_cpu"]["GrassWalk"], of_regression("GrassWalk", **REGRESSIONS["accelerate"])[STEPS - 1])
