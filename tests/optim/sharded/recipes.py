"""What two processes do with the recipes for trainers: run them as the page has them, and go on from what was saved.

Accelerate turns FSDP on where there are several accelerators, never on the CPU. `as_on_accelerators` answers its
question for the backend as several GPUs would, with gloo and the CPU for their device; all the rest is its own code,
which the Trainer uses, too.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from lightning.pytorch import Trainer  # noqa: F401  # imported once, before the processes are forked
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import Trainer as HuggingFaceTrainer  # noqa: F401

import subspace_lab as sl
from tests.docs.pages import ON_SEVERAL, ROOT, blocks

METHODS = "GrassWalk", "GaLore"
PAGE = ROOT / "docs" / "how-to" / "shard-the-optimizer.md"


def recipe(word: str, method: str, **changes: str) -> tuple[str, str]:
    """What the recipe of a trainer needs, and the recipe, with another method."""
    texts = [text for _, language, text in blocks(PAGE) if language == "python"]
    (needed,) = (text for text in texts if text.startswith("def build"))
    (found,) = (text for text in texts if text.startswith(ON_SEVERAL) and f"import {word}" in text)
    for old, new in {"GrassWalk": method, **changes}.items():
        assert old in found, old
        found = found.replace(old, new)
    return needed, found


def space() -> dict:
    """Names that the page has before its recipes, in double precision."""
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    return {"__name__": "__main__", "torch": torch, "nn": nn, "sl": sl, "fully_shard": fully_shard}


def run(*texts: str, into: dict | None = None) -> dict:
    """Names after some blocks of the page."""
    names = space() if into is None else into
    for text in texts:
        exec(compile(text, str(PAGE), "exec"), names)
    return names


def as_on_accelerators() -> None:
    """Have Accelerate take the CPU for several accelerators."""
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    PartialState._prepare_backend = lambda *_: ("gloo", DistributedType.MULTI_GPU)


def kept(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Whole weights of a model, of which all parameters and all states but counts are in shards."""
    optimizer = getattr(optimizer, "optimizer", optimizer)
    parameters = dict(model.named_parameters())
    assert all(isinstance(p, DTensor) and p.placements[0].is_shard() for p in parameters.values())
    assert {*map(id, parameters.values())} == {id(p) for group in optimizer.param_groups for p in group["params"]}
    moments = [optimizer.state[p]["exp_avg"] for p in parameters.values()]
    assert all(isinstance(moment, DTensor) and moment.placements[0].is_shard() for moment in moments)
    return {name: p.detach().full_tensor() for name, p in parameters.items()}


def save(found: dict, directory: str) -> None:
    """Keep what the first process found; all have the same."""
    if os.environ["RANK"] == "0":
        torch.save(found, Path(directory, "found.pt"))


def accelerate(directory: str) -> None:
    """The recipe twice, the second time from where the first one ended."""
    os.chdir(directory)
    as_on_accelerators()
    found = {}
    for method in METHODS:
        needed, text = recipe("Accelerator", method)
        begin, loop = text.split("\nfor ", 1)
        names = run(needed, begin, "for " + loop)
        found[method] = kept(names["model"], names["optimizer"])
        run(begin, into=names)  # another model and optimizer
        names["accelerator"].load_state("checkpoint")
        run("for " + loop, into=names)
        found[f"{method}/resumed"] = kept(names["model"], names["optimizer"])
        names = run(needed, begin)
        for group in names["optimizer"].param_groups:
            if group["rank"]:
                group["side"] = "sharded"
        run("for " + loop, into=names)
        found[f"{method}/side"] = kept(names["model"], names["optimizer"])
    save(found, directory)


def accelerate_cpu(directory: str) -> None:
    """What Accelerate makes of the recipe on the CPU."""
    os.chdir(directory)
    os.environ["ACCELERATE_USE_CPU"] = "true"
    names = run(*recipe("Accelerator", "GrassWalk"))
    assert isinstance(names["model"], nn.parallel.DistributedDataParallel)
    weights = {name.removeprefix("module."): p.detach() for name, p in names["model"].named_parameters()}
    save({"GrassWalk": weights}, directory)


def trainer(directory: str) -> None:
    """The recipe, and again from the checkpoint of its first half."""
    os.chdir(directory)
    as_on_accelerators()
    found = {}
    for method in METHODS:
        half = {"trainer.train()": "trainer.train(resume_from_checkpoint='output/checkpoint-4')"}
        for name, changes in ((method, {}), (f"{method}/resumed", half)):
            names = run(*recipe("LlamaConfig", method, **changes))
            found[name] = kept(names["trainer"].model, names["trainer"].optimizer)
    save(found, directory)


def lightning(directory: str) -> None:
    """The recipe, and a second epoch from where it ended."""
    os.chdir(directory)
    found = {}
    for method in METHODS:
        more = {"max_epochs=1": "max_epochs=2", "loader)\n": "loader, ckpt_path='checkpoint')\n"}
        for name, changes in ((method, {}), (f"{method}/resumed", more)):
            names = run(*recipe("lightning", method, **changes))
            fitted = names["trainer"]
            found[name] = kept(fitted.lightning_module, fitted.optimizers[0])
    save(found, directory)
