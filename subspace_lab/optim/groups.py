"""Which parameters get a rank: by what holds them and by name."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from subspace_lab._names import named_parameters
from subspace_lab._text import nearest_to_pattern
from subspace_lab.optim.base import Group
from subspace_lab.optim.options import OPTIONS
from subspace_lab.optim.roles import Role, role_by_name, roles_of


def param_groups(
    model: nn.Module,
    rank: int | None = 128,
    *,
    targets: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] = (),
    splits: Mapping[str, int] | None = None,
    verbose: bool = False,
    **options: Any,
) -> list[Group]:
    """Groups for an optimizer: matrices of attention and MLP with a rank, everything else full-rank.

    Embeddings and heads stay full-rank: their gradients are sparse by rows (a token that does not occur has none),
    which no small subspace holds. They are known by their modules (`nn.Embedding`, what ``get_input_embeddings`` and
    ``get_output_embeddings`` return, weights tied to these, linear layers with one output per token or label) and by
    their names. Norms and biases are not matrices. Experts in one three-dimensional parameter are a stack of matrices.
    Names stay in the groups, for messages and for BAdam's blocks; parameters that do not require a gradient are left
    out. Where what was decided is doubtful, there is a warning.

    Args:
        model: A model, wrapped or not.
        rank: Rank of the targets; None leaves everything full-rank, in one named group.
        targets: Globs on parameter names (``"*.self_attn.*"``) of the matrices that get the rank; None for all matrices
            but embeddings, heads and norms.
        exclude: Globs of matrices that stay full-rank all the same.
        splits: Glob to a number, for matrices that are several stacked along their first dimension, as in a fused
            linear layer: ``{"*.qkv.weight": 3}``. A three-dimensional parameter with as many as its first dimension
            (or a multiple) is a stack of matrices, as experts are without being named here; 1 takes those as one.
            GPT-2's ``Conv1D`` stacks along the second dimension and cannot be split.
        verbose: Print what was decided of every matrix, and why.
        options: Of the groups with a rank: ``update_interval=``, ``scale=``, ...

    Returns:
        Groups: with a rank (one per number of splits), and without.

    Raises:
        TypeError: If `model` is not a module.
        ValueError: If a pattern matches nothing, a matrix cannot be split as asked, or something has no effect.

    >>> model = nn.ModuleDict({"embed": nn.Embedding(8, 4), "up": nn.Linear(4, 16)})
    >>> [(group["rank"], group["param_names"]) for group in param_groups(model, rank=2)]
    [(2, ['up.weight']), (None, ['embed.weight', 'up.bias'])]
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"param_groups takes the model itself, got {type(model).__name__}")
    given = {"targets": targets, "exclude": exclude, "splits": splits, **options}
    useless = [name for name, value in given.items() if name in options or value]
    if rank is None and useless:
        raise ValueError(f"{useless[0]}= has no effect with rank=None, which leaves everything full-rank; leave it out")
    trainable, roles = named_parameters(model, trainable=True), roles_of(model)
    low = [] if rank is None else select(roles, targets, exclude, owner=type(model).__name__)
    counts = {name: roles[name].matrices for name in low}
    asked = _split_counts(model, splits, {name: trainable[name] for name in low}, roles)
    counts |= asked
    _tell(roles, counts, rank, sure=set(low if targets is not None else asked), verbose=verbose)
    groups = []
    for number in sorted({*counts.values()}):
        names = [name for name in low if counts[name] == number]
        more = {**options, **({"splits": number} if number > 1 else {})}
        groups.append({**_group(names, trainable), "rank": rank, **more})
    rest = [name for name in trainable if name not in set(low)]
    return groups + ([{**_group(rest, trainable), "rank": None}] if rest else [])


def select(
    shapes: Mapping[str, tuple[int, ...] | Role],
    targets: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] = (),
    *,
    owner: str = "the model",
) -> list[str]:
    """Names of the parameters that get a rank.

    Args:
        shapes: Parameter name to shape, or to what is known of it.
        targets: As in `param_groups`.
        exclude: As in `param_groups`.
        owner: What has these parameters, for messages.

    Returns:
        Names, in the order of `shapes`.

    Raises:
        ValueError: If a pattern matches no matrix; names the nearest.
    """
    roles = {name: role_by_name(name, of) if isinstance(of, tuple) else of for name, of in shapes.items()}
    matrices = [name for name, role in roles.items() if role.is_matrix]
    if targets is None:
        chosen = {name for name in matrices if roles[name].reason is None}
    else:
        chosen = {name for glob in _globs(targets, "targets") for name in _matching(glob, matrices, "targets", owner)}
    chosen -= {name for glob in _globs(exclude, "exclude") for name in _matching(glob, matrices, "exclude", owner)}
    if not chosen:
        raise ValueError(f"no matrix of {owner} is left to get a rank; pass targets=, or rank=None for full rank")
    return [name for name in matrices if name in chosen]


def _tell(
    roles: Mapping[str, Role], counts: Mapping[str, int], rank: int | None, *, sure: set[str], verbose: bool
) -> None:
    """Warn of what is doubtful and not sure by what was asked for, and print everything if that is wanted."""
    doubts = [f"{name} {roles[name].doubt}" for name in counts if roles[name].doubt and name not in sure]
    if doubts:
        more = f" (and {len(doubts) - 1} more; verbose=True prints all)" if len(doubts) > 1 else ""
        warnings.warn(f"{doubts[0]}{more}", stacklevel=3)
    if not verbose:
        return
    for name, role in roles.items():
        if role.is_matrix:
            stack = f", {counts[name]} matrices" if counts.get(name, 1) > 1 else ""
            doubt = f"; doubtful: it {role.doubt}" if role.doubt and name not in sure else ""
            reason = f"rank {rank}{stack}{doubt}" if name in counts else f"full-rank: {role.reason or 'as asked for'}"
            print(f"{name} {role.shape}: {reason}")
    print(f"{sum(not role.is_matrix for role in roles.values())} vectors and numbers: full-rank")


def _group(names: list[str], parameters: Mapping[str, Tensor]) -> Group:
    return {"params": [parameters[name] for name in names], "param_names": list(names)}


def _split_counts(
    model: nn.Module, splits: Mapping[str, int] | None, low: Mapping[str, Tensor], roles: Mapping[str, Role]
) -> dict[str, int]:
    """How many matrices a parameter is, of those that are more than one."""
    if splits is not None and not isinstance(splits, Mapping):
        raise ValueError(f"splits must be a mapping of globs to numbers, {{'*.qkv.weight': 3}}, got {splits!r}")
    transposed = {id(p) for part in model.modules() if type(part).__name__ == "Conv1D" for p in part.parameters()}
    counts: dict[str, int] = {}
    for glob, number in (splits or {}).items():
        OPTIONS["splits"].check(f"splits: {glob!r}", number)
        for name in _matching(glob, low, "splits"):
            if counts.setdefault(name, number) != number:
                raise ValueError(f"splits: {glob!r} and a pattern before it differ on {name}; let one of them match it")
            if number > 1 and number % roles[name].matrices:
                raise ValueError(
                    f"splits: {name} of shape {tuple(low[name].shape)} is a stack of {roles[name].matrices} "
                    f"matrices; give {roles[name].matrices} or a multiple of it, or 1 for one matrix"
                )
            if id(low[name]) in transposed:
                raise ValueError(
                    f"splits: {name} is of a Conv1D, which stacks along the second dimension, and rows are what is "
                    "split; leave it whole"
                )
    return counts


def _globs(patterns: str | Iterable[str], argument: str) -> list[str]:
    globs = (
        [patterns] if isinstance(patterns, str) else list(patterns) if isinstance(patterns, Iterable) else [patterns]
    )
    for glob in globs:
        if not isinstance(glob, str):
            raise ValueError(f"{argument} must be a glob on names or several, got {glob!r}")
    return globs


def _matching(glob: str, names: Iterable[str], argument: str, owner: str = "the targets") -> list[str]:
    names = list(names)
    found = [name for name in names if fnmatchcase(name, glob)]
    if not found:
        near = nearest_to_pattern(glob, names)
        raise ValueError(f"{argument}: {glob!r} matches no matrix of {owner}; nearest: {near}")
    return found
