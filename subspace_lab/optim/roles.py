"""What a parameter is for, by the module that holds it: embeddings and heads, norms, stacks of experts."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from subspace_lab._checks import is_whole
from subspace_lab._names import named_parameters
from subspace_lab._stacks import are_convolutions, num_matrices

EXCLUDED = (
    "*embed*", "*wte*", "*wpe*", "shared.*", "*.shared.weight", "*relative_attention_bias*", "*relative_position*",
    "*position_bias*", "*pos_emb*", "*lm_head*", "head.*", "*.head.*", "*heads.*", "output.*", "*classifier*",
    "*classification_head*", "score.*", "*.score.*", "*qa_outputs*", "*predictions*", "*vocab*", "*seq_relationship*",
    "*text_projection*", "*visual_projection*", "*norm*", "*.ln_*", "*bias",
)  # fmt: skip
_BLOCK = re.compile(r"\d+\.\w*[a-zA-Z]\w*\.")  # a number, and modules in it


@dataclass
class Role:
    """What is known of one parameter.

    Attributes:
        shape: Its shape.
        reason: Why it stays full-rank, unless it is asked for by name; None for a matrix that gets a rank.
        doubt: What speaks against what was decided, None where nothing does.
        matrices: How many matrices it is a stack of.
    """

    shape: tuple[int, ...]
    reason: str | None = None
    doubt: str | None = None
    matrices: int = 1

    @property
    def is_matrix(self) -> bool:
        """Whether there is a subspace: two dimensions or more, and more than one row and column."""
        shape = self.shape[-2:] if self.matrices > 1 else self.shape
        return len(shape) > 1 and min(shape[0], math.prod(shape[1:])) > 1


def role_by_name(name: str, shape: tuple[int, ...]) -> Role:
    """What a name and a shape alone say.

    Args:
        name: Canonical parameter name.
        shape: The parameter's.

    Returns:
        Its role.
    """
    return _role(name, shape, num_matrices(name, shape))


def _role(name: str, shape: tuple[int, ...], matrices: int) -> Role:
    role = Role(shape, matrices=matrices)
    if not role.is_matrix:
        role.reason = "no matrix"
    elif glob := next((glob for glob in EXCLUDED if fnmatchcase(name, glob)), None):
        role.reason = f"its name is like {glob!r}"
    return role


def roles_of(model: nn.Module) -> dict[str, Role]:
    """The role of every trainable parameter of a model, by what holds it and by its name.

    Full-rank are the tables of `nn.Embedding` and its like, what ``get_input_embeddings`` and ``get_output_embeddings``
    return, weights tied to either, linear layers outside of the blocks with one output per token or label, what has
    the name of an embedding, a head or a norm, and what is not a matrix. A three-dimensional parameter of a module of
    experts is a stack of matrices.

    Args:
        model: The model, wrapped or not.

    Returns:
        Canonical name to role, in the order of the model.
    """
    parameters = named_parameters(model, trainable=True)
    holders: dict[int, list[nn.Module]] = {}
    for module in model.modules():
        for p in module.parameters(recurse=False):
            holders.setdefault(id(p), []).append(module)
    tables, tokens, labels = _embeddings(model)
    roles = {}
    for name, p in parameters.items():
        own = holders.get(id(p), [])
        roles[name] = role = _role(name, tuple(p.shape), num_matrices(name, tuple(p.shape), own))
        if role.is_matrix and id(p) in tables:
            role.reason = tables[id(p)]
        elif role.is_matrix and role.reason is None and any(isinstance(module, nn.Linear) for module in own):
            _look_at_outputs(role, name, tokens, labels)
        elif role.reason is None and p.dim() == 3 and role.matrices == 1 and not are_convolutions(own):
            role.doubt = (
                f"is taken for one matrix of {p.shape[0]} rows; if it is a stack of matrices, pass "
                f"splits={{{name!r}: {p.shape[0]}}}"
            )
    _doubt_the_last(roles)
    return roles


def _embeddings(model: nn.Module) -> tuple[dict[int, str], set[int], set[int]]:
    """Why parameters are embeddings or heads, by identity; how many tokens there are; and how many labels."""
    tables: dict[int, str] = {}
    tokens, labels, sizes = set(), set(), [0]
    for module in model.modules():
        kind = type(module).__name__
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            sizes.append(module.num_embeddings)
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) or kind.endswith(("Embedding", "Embeddings")):
            tables |= {id(p): f"held by an {kind}" for p in module.parameters(recurse=False)}
        if isinstance(module, nn.AdaptiveLogSoftmaxWithLoss):
            tables |= {id(p): f"held by an {kind}" for p in module.parameters()}
        for getter in ("get_input_embeddings", "get_output_embeddings"):
            found = _called(getattr(module, getter, None))
            tokens |= {found.num_embeddings} if isinstance(found, nn.Embedding) else set()
            for p in _parameters(found):
                tables.setdefault(id(p), f"what {getter}() returns")
        config = getattr(module, "config", None)
        tokens |= {size for size in [_number(config, "vocab_size")] if size}
        labels |= {size for size in [_number(config, "num_labels")] if size and hasattr(module, "num_labels")}
    return tables, tokens or {max(sizes)}, labels


def _called(getter: Callable[[], Any] | None) -> Any:
    """What a getter returns, None where it cannot: models without such a layer raise all sorts of errors."""
    try:
        return getter() if callable(getter) else None
    except Exception:
        return None


def _parameters(found: Any) -> Iterator[Tensor]:
    if isinstance(found, nn.Module):
        yield from found.parameters()
    elif isinstance(found, Tensor):
        yield found
    elif isinstance(found, list | tuple):
        for part in found:
            yield from _parameters(part)


def _number(config: Any, name: str) -> int | None:
    value = _called(lambda: getattr(config, name, None))
    return value if is_whole(value) else None


def _look_at_outputs(role: Role, name: str, tokens: set[int], labels: set[int]) -> None:
    """A linear layer with one output per token or label is a head, unless it stands in a block."""
    outputs = role.shape[0]
    if outputs in tokens and _BLOCK.search(name):
        role.doubt = f"has {outputs} outputs, as many as there are tokens, and stands in a block: it gets a rank"
    elif outputs in tokens:
        role.reason = "one output per token"
    elif outputs in labels and not _BLOCK.search(name):
        role.reason = "one output per label"


def _doubt_the_last(roles: dict[str, Role]) -> None:
    """The last matrix may be a head of a name that nobody knows, if it stands outside of the blocks."""
    if not any(_BLOCK.search(name) for name in roles):
        return
    name, role = next(((n, r) for n, r in reversed(roles.items()) if r.is_matrix), ("", None))
    doubtful = role and role.reason is None and role.doubt is None and not _BLOCK.search(name)
    if role and doubtful and role.shape[0] != math.prod(role.shape[1:]):
        role.doubt = f"is the last matrix and stands behind the blocks, as heads do; exclude={name!r} if it is one"
