"""Which parameters get a rank: by name."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from subspace_lab.optim.base import Group

EXCLUDED = (
    "*embed*", "*wte*", "*wpe*", "*lm_head*", "head.*", "*.head.*", "*classifier*", "score.*", "*.score.*", "*norm*",
    "*.ln_*",
)  # fmt: skip
_WRAPPERS = ("_orig_mod.", "module.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")


def param_groups(
    model: nn.Module,
    rank: int | None = 128,
    *,
    targets: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] = (),
    splits: Mapping[str, int] | None = None,
    **options: Any,
) -> list[Group]:
    """Groups for an optimizer: matrices of attention and MLP with a rank, everything else full-rank.

    Embeddings and heads stay full-rank: their gradients are sparse by rows (a token that does not occur has none),
    which no small subspace holds. Norms and biases are no matrices. Names stay in the groups, for messages and for
    BAdam's blocks; parameters that do not require a gradient are left out.

    Args:
        model: The model.
        rank: Rank of the targets; None leaves everything full-rank, in one named group.
        targets: Globs on parameter names (``"*.self_attn.*"``) of the matrices that get the rank; None for all matrices
            but those whose names say embedding, head or norm (`EXCLUDED`).
        exclude: Globs of matrices that stay full-rank all the same.
        splits: Glob to a number, for matrices that are several stacked in one: ``{"*.qkv.weight": 3}``.
        options: Of the groups with a rank: ``update_interval=``, ``scale=``, ...

    Returns:
        Groups: with a rank (one per number of splits), and without.

    >>> model = nn.ModuleDict({"embed": nn.Embedding(8, 4), "up": nn.Linear(4, 16)})
    >>> [(group["rank"], group["param_names"]) for group in param_groups(model, rank=2)]
    [(2, ['up.weight']), (None, ['embed.weight', 'up.bias'])]
    """
    trainable = {canonical(name): p for name, p in model.named_parameters() if p.requires_grad}
    shapes = {name: tuple(p.shape) for name, p in trainable.items()}
    low = [] if rank is None else select(shapes, targets, exclude, owner=type(model).__name__)
    counts = {name: number for glob, number in (splits or {}).items() for name in _matching(glob, low, "splits")}
    groups = []
    for number in sorted({counts.get(name, 1) for name in low}):
        names = [name for name in low if counts.get(name, 1) == number]
        more = {**options, **({"splits": number} if number > 1 else {})}
        groups.append({**_group(names, trainable), "rank": rank, **more})
    rest = [name for name in trainable if name not in set(low)]
    return groups + ([{**_group(rest, trainable), "rank": None}] if rest else [])


def select(
    shapes: Mapping[str, tuple[int, ...]],
    targets: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] = (),
    *,
    owner: str = "the model",
) -> list[str]:
    """Names of the parameters that get a rank.

    Args:
        shapes: Parameter name to shape.
        targets: As in `param_groups`.
        exclude: As in `param_groups`.
        owner: What has these parameters, for messages.

    Returns:
        Names, in the order of `shapes`.

    Raises:
        ValueError: If a pattern matches no matrix; names the nearest.
    """
    matrices = [name for name, shape in shapes.items() if len(shape) > 1 and min(shape[0], math.prod(shape[1:])) > 1]
    if targets is None:
        chosen = {name for name in matrices if not any(fnmatchcase(name, glob) for glob in EXCLUDED)}
    else:
        chosen = {name for glob in _globs(targets) for name in _matching(glob, matrices, "targets", owner)}
    chosen -= {name for glob in _globs(exclude) for name in _matching(glob, matrices, "exclude", owner)}
    if not chosen:
        raise ValueError(f"no matrix of {owner} is left to get a rank; pass targets=, or rank=None for full rank")
    return [name for name in matrices if name in chosen]


def canonical(name: str) -> str:
    """A parameter's name without what compilation and sharding put into it."""
    for wrapper in _WRAPPERS:
        name = name.removeprefix(wrapper) if wrapper == "module." else name.replace(wrapper, "")
    return name


def _group(names: list[str], parameters: Mapping[str, Tensor]) -> Group:
    return {"params": [parameters[name] for name in names], "param_names": list(names)}


def _globs(patterns: str | Iterable[str]) -> list[str]:
    return [patterns] if isinstance(patterns, str) else list(patterns)


def _matching(glob: str, names: Iterable[str], argument: str, owner: str = "the targets") -> list[str]:
    names = list(names)
    found = [name for name in names if fnmatchcase(name, glob)]
    if not found:
        near = difflib.get_close_matches(glob.replace("*", ""), names, n=3, cutoff=0) or ["none"]
        raise ValueError(f"{argument}: {glob!r} matches no matrix of {owner}; nearest: {', '.join(near)}")
    return found
