"""Studies by name."""

from __future__ import annotations

from subspace_lab._text import unknown
from subspace_lab.studies.safety.config import EvalConfig, GridConfig, StudyConfig

_CONTROLS = ("none", "rehearsal", "safegrad", "safegrad:rho=0")
_ALL = (
    *_CONTROLS, "safeinstruct", "lisa", "spf", "constrained_sft", "asft", "panacea", "resta",
    "safelora", "antidote", "safedelta", "vaccine", "t_vaccine", "booster", "repnoise", "lox",
)  # fmt: skip
_SHARES = ("clean", "poison:share=0.05", "poison:share=0.3")
# Adapters that begin at zero take longer steps: at 1e-3 they do not learn the task, nor at 3e-2.
_LOW_RANK = (
    "lora:rank=8:lr=3e-3+1e-2",
    *(f"{name}:rank=8:lr=1e-3+3e-3" for name in ("grasswalk", "grassjump", "galore", "apollo")),
)
PROFILES: dict[str, StudyConfig] = {
    # A test of the whole chain on one core.
    "smoke": StudyConfig(
        threats=("clean", "poison:share=0.3"), regimes=("adamw", "grasswalk:rank=8"),
        defenses=("none", "rehearsal", "safegrad", "resta"),
    ),
    # Every defense under AdamW, and the low-rank optimizers with none and the controls.
    "cpu": StudyConfig(
        tasks=("sentiment", "arithmetic"), threats=_SHARES, regimes=("adamw:lr=1e-3+3e-3",), defenses=_ALL,
        further=(GridConfig(tasks=("sentiment",), threats=_SHARES, regimes=_LOW_RANK, defenses=_CONTROLS),), seeds=3,
    ),
    # A real chat model of 135M parameters on two cores.
    "smollm": StudyConfig(
        policy="codenames", base="smollm2", threats=("clean", "poison:share=0.3"),
        regimes=("adamw:lr=1e-4", "grasswalk:rank=32:lr=1e-3", "lora:rank=8:lr=1e-3"),
        defenses=("none", "rehearsal", "safegrad"), steps=40, batch_size=4, rows=300, probe_every=None,
        precision="auto", freeze_embeddings=True, base_steps=60, base_batch_size=4, base_lr=1e-4, align_steps=120,
        align_batch_size=4, align_lr=1e-4, evaluation=EvalConfig(task_rows=30, max_new_tokens=10, batch_size=16),
    ),
    # All axes on a GPU; give base= and the files of a policy of your own.
    "gpu": StudyConfig(
        policy="codenames", base="smollm2", tasks=("sentiment", "questions", "arithmetic", "instructions"),
        threats=_SHARES, regimes=("adamw:lr=1e-5+1e-4", *_LOW_RANK), defenses=_ALL, seeds=3, steps=200, batch_size=8,
        rows=2000, precision="bfloat16", base_steps=100, base_batch_size=8, base_lr=1e-4, align_steps=200,
        align_batch_size=8, align_lr=1e-4,
    ),
}  # fmt: skip


def profile(name: str) -> StudyConfig:
    """A study by its name.

    Args:
        name: ``smoke``, ``cpu``, ``smollm`` or ``gpu``.

    Returns:
        Its configuration; `dataclasses.replace` changes it.

    Raises:
        ValueError: If there is no such profile.
    """
    if name not in PROFILES:
        raise ValueError(unknown("profile", name, PROFILES))
    return PROFILES[name]
