# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Fine-tuning
#
# A labelled task, three ways to learn it, and what the gradients look like block by block. The model is small and
# starts from random weights, so that the notebook runs in a moment. For a pretrained one, give `model="smollm2"` in
# the place of `preset` (fetched once by `python -m subspace_lab.training.smollm2`, 93 MB): nothing else changes but
# the time.

# %%
import warnings
from pathlib import Path

import torch
from matplotlib.figure import Figure

import subspace_lab as sl
from subspace_lab.figures.panels import NOISE, line_style
from subspace_lab.training import TrainConfig, train

# %matplotlib inline
# %config InlineBackend.print_figure_kwargs = {"bbox_inches": "tight", "facecolor": "white"}

warnings.filterwarnings("ignore", message="IProgress not found")  # of the progress bars of data sets

# %% [markdown]
# ## Three trainings
#
# Reviews that are positive or negative, generated here; the reply must be the one word. Everything is the same for
# all three but what is trained, and how: AdamW on all weights, GrassWalk on all weights with a basis of rank 8 for
# each matrix of attention and MLP, and LoRA, which freezes the weights and trains adapters of rank 8.

# %%
ROOT = Path("runs/fine-tuning")
shared = {"preset": "llama-2m", "vocab_size": 512, "task": "sentiment", "steps": 24, "batch_size": 8, "every": 4,
          "eval_every": 6, "eval_batches": 4, "precision": "float32", "threads": 1}  # fmt: skip
ways = {
    "AdamW": {"lr": 3e-3},
    "GrassWalk": {"optimizer": "grasswalk", "rank": 8, "update_interval": 6, "lr": 1e-2, "lr_rest": 3e-3},
    "LoRA": {"adapter": "lora", "adapter_rank": 8, "lr": 1e-2},
}
runs = {}
for name, way in ways.items():
    path = ROOT / name.lower()
    if not path.exists():
        train(path, TrainConfig(**shared, **way))
    runs[name] = sl.Run.open(path, write=True)

# %% [markdown]
# ## What the task says
#
# The loss is that of the responses alone; the accuracy counts a reply that is letter for letter the right label. Of
# 32 held-out rows one is 0.03. Learning to answer in one of the two words comes first (`eval_unparsed` falls), and
# the loss shows that long before any reply is right. One seed and one rate decide nothing: for a comparison that
# does, see below.

# %%
metrics = {name: run.curves("loss", "eval_loss", "eval_accuracy", "eval_unparsed") for name, run in runs.items()}
shown = {"eval_loss": "held-out loss (nats)", "eval_accuracy": "accuracy", "eval_unparsed": "replies that are no label"}
with sl.figures.style(sl.figures.PAGE):
    figure = Figure(figsize=(7.2, 2.4), layout="constrained")
    for ax, (column, label) in zip(figure.subplots(1, 3), shown.items(), strict=True):
        for place, (name, curves) in enumerate(metrics.items()):
            rows = curves.dropna(subset=[column])
            ax.plot(rows["step"], rows[column], label=name, **line_style(place))
        ax.set(xlabel="optimizer step", ylabel=label)
    ax.legend()
figure

# %% [markdown]
# The report of a run has the same, all metrics with their directions:

# %%
sl.figures.TASK_FIGURES["task_metrics"].draw(runs["AdamW"])

# %% [markdown]
# ## What an adapter adds
#
# LoRA's update of a weight is `(alpha / r) B A`: its rank is 8 at most, however long it is trained. AdamW's update of
# the same matrix has no such bound, and yet most of it lies in few directions.

# %%
layer = "model.layers.2.mlp.down_proj.weight"


def last_model(name):
    *_, (_, model) = sl.training.RestoredCheckpoints.of(runs[name]).models()
    return model


start = sl.training.models.build_model(sl.training.stored_config(runs["AdamW"].path)).get_parameter(layer).detach()
spectra = {
    "AdamW": torch.linalg.svdvals(last_model("AdamW").get_parameter(layer).detach() - start),
    "LoRA": torch.linalg.svdvals(dict(sl.training.effective_updates(last_model("LoRA")))[layer]),
}
with sl.figures.style(sl.figures.PAGE):
    figure = Figure(figsize=(5, 2.6), layout="constrained")
    ax = figure.subplots()
    for place, (name, sigma) in enumerate(spectra.items()):
        kept = sigma[sigma > 1e-6 * sigma[0]]
        ax.plot(range(1, len(kept) + 1), kept / sigma[0], label=name, **line_style(place), markevery=8)
    ax.set(xlabel=f"index, update of {layer.removesuffix('.weight')}", ylabel="singular value over the largest")
    ax.legend()
figure

# %% [markdown]
# ## Gradients of a task and of text
#
# The same model, trained by AdamW on text. The energy ratio is the share of a gradient's norm in its own top-r space,
# here at an eighth of the width, block by block; dashed is what Gaussian noise of the same shapes has.
#
# It misleads in two ways. A step of t tokens has a gradient of rank t at most, and the responses of this task are
# single words: its gradients have few directions before anything is learned. And four blocks are not many: SmolLM2
# has thirty.

# %%
if not (ROOT / "text").exists():
    train(ROOT / "text", TrainConfig(**{**shared, **ways["AdamW"], "task": "language", "sequence_length": 64}))
sources = {"task": runs["AdamW"], "text": sl.Run.open(ROOT / "text", write=True)}
energies = {name: sl.analysis.energy(run, ranks=16, lags=()) for name, run in sources.items()}

with sl.figures.style(sl.figures.PAGE):
    figure = Figure(figsize=(5, 2.6), layout="constrained")
    ax = figure.subplots()
    for place, (name, energy) in enumerate(energies.items()):
        blocks = energy.groupby("depth")[["ratio", "null_noise"]].mean()
        ax.plot(blocks.index, blocks["ratio"], label=name, **line_style(place))
    ax.plot(blocks.index, blocks["null_noise"] ** 0.5, label="Gaussian noise", **NOISE)
    ax.set(xlabel="block", ylabel="‖SᵀG‖ / ‖G‖ at r/m = 1/8")
    ax.legend()
figure

# %% [markdown]
# ## A comparison that decides something
#
# One command tunes eight methods over three rates each on a seed of its own, evaluates them on other seeds, and
# measures gradients over depth. What it will train is said first, here for the profile of its tests:

# %%
from subspace_lab.studies.finetuning.dry_run import plan_lines

for line in plan_lines("runs/finetuning", "smoke"):
    if "trainings of" in line or "in all" in line:
        print(line)

# %% [markdown]
# `subspace-lab finetuning OUT_DIR --profile cpu` does it with SmolLM2 in about two hours on two cores, and writes a
# page with a table per task, and the claims of SubTrack-Grad (arXiv 2502.01586) with intervals.
