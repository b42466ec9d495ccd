"""LLaMA sizes of the low-rank literature, with the published settings of each, and two small sizes for a laptop.

Shapes: the configurations of GaLore (arXiv 2403.03507) and its successors. Settings: SubTrack++ (arXiv 2502.01586),
10,000 iterations on C4 at sequence length 256. Sizes without published settings carry this package's own.
"""

from __future__ import annotations

from dataclasses import dataclass

from subspace_lab._text import unknown


@dataclass(frozen=True)
class Recipe:
    """Settings of a training run that depend on the model's size.

    Attributes:
        lr: Peak learning rate of AdamW.
        batch_size: Sequences per micro-batch.
        accumulation: Micro-batches per optimizer step.
        sequence_length: Tokens per sequence.
        steps: Optimizer steps.
    """

    lr: float = 1e-3
    batch_size: int = 8
    accumulation: int = 1
    sequence_length: int = 128
    steps: int = 200


@dataclass(frozen=True)
class Preset:
    """A size of LLaMA: SwiGLU, RMSNorm (eps 1e-6), rotary positions, no biases, untied embeddings.

    Attributes:
        hidden_size: Width of the residual stream, a multiple of ``num_heads``.
        intermediate_size: Width of the MLP.
        num_layers: Blocks.
        num_heads: Attention heads, as many for keys and values.
        vocab_size: Rows of the embedding and of the head.
        recipe: How it is trained by default.
        rank: Published rank of the subspace, None where there is none.
        update_interval: Published steps between two refreshes of the basis, None where there is none.
    """

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    vocab_size: int = 32_000
    recipe: Recipe = Recipe()
    rank: int | None = None
    update_interval: int | None = None

    @property
    def usual_rank(self) -> int:
        """The published rank, or where there is none a quarter of the width, the habit of the literature."""
        return self.rank or self.hidden_size // 4


FINE_TUNING = Recipe(lr=2e-5)


def _published(lr: float, batch_size: int, accumulation: int) -> Recipe:
    return Recipe(lr, batch_size, accumulation, sequence_length=256, steps=10_000)


PRESETS: dict[str, Preset] = {
    "llama-2m": Preset(128, 352, 4, 4, vocab_size=4096),
    "llama-7m": Preset(256, 512, 8, 8, vocab_size=4096),
    "llama-9m": Preset(128, 352, 4, 4),
    "llama-20m": Preset(256, 688, 4, 4),
    "llama-35m": Preset(384, 1024, 6, 8),
    "llama-40m": Preset(416, 1024, 8, 8),
    "llama-60m": Preset(512, 1376, 8, 8, recipe=_published(1e-3, 128, 2), rank=128, update_interval=200),
    "llama-71m": Preset(512, 1368, 12, 8),
    "llama-100m": Preset(640, 1708, 12, 10, vocab_size=32_100),
    "llama-130m": Preset(768, 2048, 12, 12, recipe=_published(1e-3, 128, 2), rank=256, update_interval=200),
    "llama-250m": Preset(768, 2560, 24, 16),
    "llama-350m": Preset(1024, 2736, 24, 16, recipe=_published(1e-3, 64, 2), rank=256, update_interval=200),
    "llama-1b": Preset(2048, 5461, 24, 32, recipe=_published(1e-4, 8, 2), rank=512, update_interval=200),
    "llama-3b": Preset(2560, 6848, 32, 32, recipe=_published(1e-4, 8, 2), rank=512, update_interval=200),
    "llama-7b": Preset(4096, 11008, 32, 32, recipe=_published(1e-4, 4, 4), rank=1024, update_interval=500),
}


def preset(name: str) -> Preset:
    """A preset by its name.

    Args:
        name: A key of `PRESETS`.

    Returns:
        The preset.

    Raises:
        ValueError: If there is none of that name; the message names the nearest.

    >>> preset("llama-60m").hidden_size
    512
    """
    if name not in PRESETS:
        raise ValueError(unknown("preset", name, PRESETS))
    return PRESETS[name]


def parameter_shapes(size: Preset) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parameters of a preset's model, without building it.

    Args:
        size: The preset.

    Returns:
        Name, as transformers has it, to shape; in the model's order.

    >>> parameter_shapes(preset("llama-1b"))["model.layers.23.mlp.down_proj.weight"]
    (2048, 5461)
    """
    h, inner = size.hidden_size, size.intermediate_size
    block = {
        **{f"self_attn.{kind}_proj.weight": (h, h) for kind in "qkvo"},
        **{f"mlp.{kind}_proj.weight": (inner, h) for kind in ("gate", "up")},
        "mlp.down_proj.weight": (h, inner),
        "input_layernorm.weight": (h,),
        "post_attention_layernorm.weight": (h,),
    }
    blocks = {f"model.layers.{i}.{name}": shape for i in range(size.num_layers) for name, shape in block.items()}
    ends = (size.vocab_size, h)
    return {"model.embed_tokens.weight": ends, **blocks, "model.norm.weight": (h,), "lm_head.weight": ends}
