"""What a parameter is called: its name in the bare model, whatever wraps that; one function for the whole package.

Compilation, data parallelism, sharding and activation checkpointing put components into names (``_orig_mod.``,
``module.``, ...). Most of them are names that only wrappers use; ``module`` is also an ordinary name of an attribute.
Where the model is at hand, `names_of` looks at what its modules are; where only names are, `canonical_names` can but
guess. Both keep apart what would become the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from torch import nn

from subspace_lab._frozen import is_trained

# Components that nothing but wrappers uses: torch.compile, FSDP, activation checkpointing, Lightning's Fabric.
_PRIVATE = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"})
# Classes, by the package that they are from, whose only content is in an attribute with an ordinary name.
_WRAPPERS = {
    ("torch", "DistributedDataParallel"): "module",
    ("torch", "DataParallel"): "module",
    ("torch", "AveragedModel"): "module",
    ("deepspeed", "DeepSpeedEngine"): "module",
    ("megatron", "DistributedDataParallel"): "module",
    ("megatron", "Float16Module"): "module",
    ("opacus", "GradSampleModule"): "_module",
}


def names_of(model: nn.Module, raws: Iterable[str] | None = None) -> dict[str, str]:
    """The canonical names of a model's parameters.

    Args:
        model: The model, wrapped or not; wrappers may stand inside of it too.
        raws: Names of its parameters as they follow from its modules, all different; None takes all, tied ones once.

    Returns:
        Raw name -> canonical name, all different, in the order given.

    >>> wrapped = nn.DataParallel(nn.ModuleDict({"module": nn.Linear(2, 2, bias=False)}))
    >>> names_of(wrapped)
    {'module.module.weight': 'module.weight'}
    """
    paths = {path: inner for path, inner, _ in _walk(model)}

    def bare(raw: str) -> str:
        path, _, attribute = raw.rpartition(".")
        return _joined(paths[path], attribute) if path in paths else canonical_name(raw)

    return _different([raw for raw, _ in raw_parameters(model)] if raws is None else raws, bare)


def named_parameters(model: nn.Module, *, trainable: bool = False) -> dict[str, nn.Parameter]:
    """The parameters of a model by canonical name, tied ones once.

    Args:
        model: The model, wrapped or not.
        trainable: Only those that require a gradient, now or when their block has its turn.

    Returns:
        Name -> parameter, in the order of the model.
    """
    names = names_of(model)
    return {names[raw]: p for raw, p in raw_parameters(model) if not trainable or is_trained(p)}


def raw_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """``model.named_parameters()``, by what the modules are: some wrappers leave themselves out of the names there."""
    return nn.Module.named_parameters(model)


def named_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The modules of a model by the path that they have in the bare model; of a wrapper, what it is around."""
    return {bare: module for _, bare, module in _walk(model)}


def canonical_names(raws: Iterable[str]) -> dict[str, str]:
    """Canonical names where there is no model to look at: every component that a wrapper may have added is left out.

    What all names begin with is left out first. Of what is left, names that would become the same stay as they are.

    Args:
        raws: The names of a model's parameters, all different.

    Returns:
        Raw name -> name, all different, in the order given.

    >>> canonical_names(["net.weight", "module.weight", "weight"])
    {'net.weight': 'net.weight', 'module.weight': 'module.weight', 'weight': 'weight'}
    >>> canonical_names(["module.net.weight", "module.module.net.weight"])
    {'module.net.weight': 'net.weight', 'module.module.net.weight': 'module.net.weight'}
    """
    raws = list(raws)
    inner = {raw: raw for raw in raws}
    while inner and all(_is_inside_wrapper(name) for name in inner.values()):
        inner = {raw: name.partition(".")[2] for raw, name in inner.items()}
    bare = _different(inner.values(), canonical_name)
    return {raw: bare[name] for raw, name in inner.items()}


def canonical_name(raw: str) -> str:
    """One name without every component that a wrapper may have added; whether it is that of another one is not checked.

    Args:
        raw: The name as ``named_parameters`` gives it.

    Returns:
        The name that the parameter has in the bare model, if that has no attribute of the name ``module``.

    >>> canonical_name("_orig_mod.module.blocks.0._checkpoint_wrapped_module.attn.weight")
    'blocks.0.attn.weight'
    """
    *path, attribute = raw.split(".")
    return ".".join([*(part for part in path if part not in _PRIVATE and part != "module"), attribute])


def _walk(module: nn.Module, raw: str = "", bare: str = "") -> Iterator[tuple[str, str, nn.Module]]:
    """Path of every module, its path in the bare model, and the module; parents before their children."""
    yield raw, bare, module
    for attribute, child in module._modules.items():
        if child is not None:
            inner = bare if _wraps(module, attribute) else _joined(bare, attribute)
            yield from _walk(child, _joined(raw, attribute), inner)


def _wraps(module: nn.Module, attribute: str) -> bool:
    """Whether an attribute of a module is what the module is a wrapper around."""
    classes = ((c.__module__.partition(".")[0], c.__name__) for c in type(module).__mro__)
    return attribute in _PRIVATE or any(_WRAPPERS.get(c) == attribute for c in classes)


def _is_inside_wrapper(name: str) -> bool:
    first, dot, _ = name.partition(".")
    return bool(dot) and (first in _PRIVATE or first == "module")


def _joined(path: str, attribute: str) -> str:
    return f"{path}.{attribute}" if path else attribute


def _different(raws: Iterable[str], shortened: Callable[[str], str]) -> dict[str, str]:
    """Shortened names; those that would be the same stay raw."""
    short = {raw: shortened(raw) for raw in raws}
    count = Counter(short.values())
    names = {raw: name if count[name] == 1 else raw for raw, name in short.items()}
    return names if len(set(names.values())) == len(names) else {raw: raw for raw in names}
