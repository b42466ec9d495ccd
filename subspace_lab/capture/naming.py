"""What a parameter's name says: its depth, and which side lives in the residual stream."""

from __future__ import annotations

from torch import nn

from subspace_lab.numerics import Side

# Kinds whose inputs (reads) or outputs (writes) live in the residual stream, over the usual naming schemes of
# transformers. Names that mean both in different models ("dense") are left out: not known is better than wrong.
_READS = frozenset({
    "q_proj", "k_proj", "v_proj", "qkv_proj", "q_a_proj", "kv_a_proj_with_mqa", "gate_proj", "up_proj", "gate_up_proj",
    "wq", "wk", "wv", "wqkv", "Wqkv", "w1", "w3", "c_attn", "c_fc", "fc1", "fc_in", "in_proj", "query_key_value",
    "query", "key", "value", "q", "k", "v", "qkv", "wi", "wi_0", "wi_1", "q_lin", "k_lin", "v_lin", "lin1",
    "dense_h_to_4h", "lm_head", "embed_out",
})  # fmt: skip
_WRITES = frozenset({
    "o_proj", "out_proj", "down_proj", "wo", "w2", "c_proj", "fc2", "fc_out", "o", "out_lin", "lin2", "dense_4h_to_h",
})  # fmt: skip
_ATTENTION_INPUTS = frozenset({"in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"})


def depth_of(name: str) -> int:
    """The index of the block: the first component of the name that is a number of at most four digits, -1 without one.

    Args:
        name: A parameter's canonical name.

    Returns:
        The depth.

    >>> depth_of("model.layers.7.mlp.experts.3.w1.weight"), depth_of("lm_head.weight"), depth_of("20240101.2.weight")
    (7, -1, 2)
    """
    return next((int(part) for part in name.split(".") if part.isdecimal() and len(part) <= 4), -1)


def residual_side(kind: str, attribute: str, module: nn.Module, num_dims: int) -> Side | None:
    """The side of a weight that lives in the residual stream, where layers of different depth can be compared.

    That is the input side of what reads the stream (q, k, v, gate, up, ...) and the output side of what writes to it
    (o, down, ...). A linear layer's weight is (outputs, inputs), so that its inputs are the columns; the `Conv1D` of
    GPT-2 in transformers keeps the transpose. The columns of an embedding are the stream itself. Of LoRA's pair, A has
    the inputs of the layer that it adapts and B the outputs; the other side of each is the adapter's own.

    Args:
        kind: From `subspace_lab._kinds.kinds_of`.
        attribute: The name of the parameter in its module.
        module: The module that holds it.
        num_dims: Dimensions of the parameter; only matrices have a residual side.

    Returns:
        ``"left"`` (rows), ``"right"`` (columns), or None for kinds that are not known.

    >>> residual_side("o_proj", "weight", nn.Linear(2, 2), 2), residual_side("dense", "weight", nn.Linear(2, 2), 2)
    ('left', None)
    >>> residual_side("q_proj.lora_A", "weight", nn.Linear(8, 2), 2)
    'right'
    """
    if num_dims != 2:
        return None
    if isinstance(module, nn.Embedding) or attribute in _ATTENTION_INPUTS:
        return "right"
    name = kind.rpartition(".")[2]
    if name in {"lora_A", "lora_B"}:
        adapted = kind.split(".")[-2] if "." in kind else ""
        if adapted not in (_READS if name == "lora_A" else _WRITES):
            return None
        return "right" if name == "lora_A" else "left"
    if attribute != "weight" or name not in _READS | _WRITES:
        return None
    return "right" if (name in _READS) != is_transposed(module) else "left"


def is_transposed(module: nn.Module) -> bool:
    """Whether a module is GPT-2's `Conv1D` of transformers, whose weight is (inputs, outputs)."""
    return any(c.__name__ == "Conv1D" and c.__module__.startswith("transformers.") for c in type(module).__mro__)
