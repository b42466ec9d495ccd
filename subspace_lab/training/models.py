"""The model of a run: a LLaMA of a preset's size from the seed, or a pretrained one."""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING

import torch

from subspace_lab._frozen import is_trained
from subspace_lab.training.adapters import add_lora
from subspace_lab.training.config import TrainConfig
from subspace_lab.training.presets import preset
from subspace_lab.training.pretrained import pretrained_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LINEARS = (
    "*attn*.weight", "*attention*.weight", "*mlp*.weight", "*feed_forward*.weight", "*ffn*.weight",
    "*.intermediate.*weight", "*.output.dense.*weight",
)  # fmt: skip


def build_model(config: TrainConfig, outputs: int | None = None) -> PreTrainedModel:
    """The model, float32, on the CPU, ready to be trained.

    The weights of a preset, and of adapters, are a function of the seed alone: the generator is seeded here.

    Args:
        config: A resolved configuration.
        outputs: Of a head that classifies, on a pretrained encoder; None for a language model.

    Returns:
        A causal language model of transformers, or an encoder with that head; where the configuration has adapters,
        only these and the head are trainable.

    Raises:
        ValueError: If a pretrained model cannot be loaded or has fewer positions than a sequence has tokens, or a
            target of the adapters matches nothing.
    """
    torch.manual_seed(config.seed)
    model = pretrained_model(config.model, outputs=outputs) if config.model else _llama(config)
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions and config.sequence_length and config.sequence_length > positions:
        raise ValueError(
            f"sequence_length={config.sequence_length} exceeds the model's {positions} positions; shorten it"
        )
    model.config.use_cache = False
    model.float().train()
    if config.adapter is not None:
        assert config.adapter_rank
        add_lora(model, rank=config.adapter_rank, targets=config.adapter_targets)
    return model


def _llama(config: TrainConfig) -> PreTrainedModel:
    from transformers import LlamaConfig, LlamaForCausalLM

    assert config.preset
    assert config.sequence_length
    size = preset(config.preset)
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=size.hidden_size,
            intermediate_size=size.intermediate_size,
            num_hidden_layers=size.num_layers,
            num_attention_heads=size.num_heads,
            vocab_size=config.vocab_size,
            max_position_embeddings=max(1024, config.sequence_length),
            rms_norm_eps=1e-6,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=0,
        )
    )


def linear_layers(model: torch.nn.Module) -> tuple[str, ...]:
    """Patterns for the linear layers of attention and MLP that are trained, as far as the model has such names.

    Args:
        model: A language model.

    Returns:
        The patterns that match at least one matrix; ``("*",)`` when none does.

    >>> linear_layers(torch.nn.ModuleDict({"mlp": torch.nn.Linear(2, 2)}))
    ('*mlp*.weight',)
    """
    names = [name for name, parameter in model.named_parameters() if parameter.ndim >= 2 and is_trained(parameter)]
    return tuple(pattern for pattern in _LINEARS if fnmatch.filter(names, pattern)) or ("*",)
