"""Directories of models in ``OUT_DIR/weights``, as transformers and `TrainConfig.model` take them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file

from subspace_lab.experiments.recipe import WEIGHTS
from subspace_lab.runs.files import publish
from subspace_lab.studies.safety.places import weights_dir
from subspace_lab.training.adapters import effective_updates
from subspace_lab.training.pretrained import pretrained_model

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

MODEL, CONFIG = "model.safetensors", "config.json"


def load_model(directory: Path | str) -> PreTrainedModel:
    """A model in float32, without dropout, on this process's device.

    Args:
        directory: A directory, or whatever `pretrained_model` takes.

    Returns:
        The model, in evaluation mode, which for the models here is training mode without dropout.
    """
    model = pretrained_model(str(directory))
    model.config.use_cache = False
    model.float().eval()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.nn.Module.to(model, device)
    return model


def tensors(directory: Path) -> Mapping[str, Tensor]:
    """The weights in a directory by their names; tied ones once."""
    found: Mapping[str, Tensor] = load_file(directory / MODEL)
    return found


def keep_model(cell: Path, model: nn.Module, beside: Path) -> None:
    """Publish the model of a cell, adapters merged, whole or not at all; and what others begin from in the cell.

    Args:
        cell: Directory of the cell.
        model: On any device.
        beside: A directory with the files of the tokenizer and, of a model without a configuration, that.
    """
    directory = weights_dir(cell)
    with publish(directory, directory=True) as aside:
        for file in sorted(beside.iterdir()):
            if file.is_file() and file.suffix != ".safetensors" and not file.name.startswith("."):
                shutil.copyfile(file, aside / file.name)
        model.config.save_pretrained(aside)  # type: ignore[union-attr, operator]
        save_file(_merged(model), aside / MODEL, metadata={"format": "pt"})
    adapters = {name: p.detach().cpu() for name, p in model.named_parameters() if "lora_" in name}
    with publish(cell / WEIGHTS) as aside:
        aside.unlink()
        if adapters:
            save_file(adapters, aside)
        else:
            _link(directory / MODEL, aside)


def load_adapters(cell: Path, model: nn.Module) -> None:
    """Put the adapters of a cell into a model that has such."""
    saved = load_file(cell / WEIGHTS)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                p.copy_(saved[name])


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def _merged(model: nn.Module) -> dict[str, Tensor]:
    """The weights by their names in the model without adapters; those that share their memory once."""
    first: dict[int, str] = {}
    found = {}
    state = {name: tensor for name, tensor in model.state_dict().items() if "lora_" not in name}
    for name, tensor in state.items():
        if first.setdefault(tensor.data_ptr(), name) == name:
            found[name.replace(".base_layer.", ".")] = tensor.detach().cpu().contiguous().clone()
    if len(state) < len(model.state_dict()):
        for name, update in effective_updates(model):
            found[name] += update.detach().cpu()
    return found
