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
# # Gradient subspaces over time and depth
#
# How the leading subspace of each layer's gradient changes while a small LLaMA learns, how much of that change is only
# the noise of its batches, and which directions neighbouring blocks share. Two runs of some seconds are made here: one
# that trains, and one whose learning rate is so small that the weights stand still.

# %%
import dataclasses
import itertools
import tempfile
from pathlib import Path

import pandas as pd
from IPython.utils.capture import capture_output

import subspace_lab as sl
from subspace_lab.analysis.angle_histograms import angle_histograms
from subspace_lab.studies.grass_paper.quantities.projection_angles import histogram

# %matplotlib inline
# %config InlineBackend.print_figure_kwargs = {"bbox_inches": "tight", "facecolor": "white"}

# %%
directory = Path(tempfile.mkdtemp())
training = sl.TrainConfig(
    preset="llama-2m", data=str(Path(sl.__file__).parent / "**" / "*.py"), vocab_size=512, steps=25, every=2,
    batch_size=4, sequence_length=64, lr=3e-3, eval_every=None, precision="float32",
)  # fmt: skip
still = dataclasses.replace(training, lr=1e-12)
with capture_output():  # the lines of progress
    paths = {"training": sl.train(directory / "training", training), "still": sl.train(directory / "still", still)}
runs = {name: sl.Run.open(path, write=True) for name, path in paths.items()}
for run in runs.values():
    sl.analysis.angles(run, rank=16)
sl.analysis.energy(runs["training"])
loss = pd.DataFrame({name: run.metrics["loss"] for name, run in runs.items()})
loss.iloc[[0, -1]].round(2)

# %% [markdown]
# ## Over time: energy
#
# What the own top-r space of each gradient holds, by rank and by stage of training; the lines are what is left
# *outside*. The dashed line is Gaussian noise of that shape. A distance from it is structure; whether the structure is
# signal, this cannot tell, since the noise of real gradients has a structure too.

# %%
sl.figures.energy_by_rank.draw(runs["training"])

# %% [markdown]
# ## Over time: how far the space turns
#
# Overlap with the capture before and with the first one, at rank 16. 1 is the same space, the dotted line what two
# random spaces share.

# %%
sl.figures.angle_drift.draw(runs["training"])

# %% [markdown]
# It is tempting to read this as motion: the space seems to turn away within a few steps. The same figure for weights
# that do not move at all:

# %%
sl.figures.angle_drift.draw(runs["still"])

# %% [markdown]
# Nothing learns here, and the spaces differ from capture to capture all the same: another batch has another gradient.
# So an overlap far below 1 is no motion by itself. Motion is where the capture before is nearer than the first one,
# which for weights that stand still it is not. Means over all layers:

# %%
overlaps = pd.concat({name: run.table("angles") for name, run in runs.items()}, names=["run"]).reset_index("run")
overlaps = overlaps[overlaps["comparison"] != "depth"]
overlaps.pivot_table(index="comparison", columns="run", values="overlap", observed=True).round(2)

# %% [markdown]
# ## Over time: which directions stay
#
# A mean overlap hides that a space may keep some directions for good while the others are drawn anew each time. The
# cosines of the single principal angles show it: whatever lies to the right of the dashed outline is nearer than random
# spaces come. Again the training first, then the weights that stand still.

# %%
cosines = {name: angle_histograms(run, rank=16, lags=(1, 6), num_bins=20) for name, run in runs.items()}
histogram.draw(cosines["training"])

# %%
histogram.draw(cosines["still"])

# %% [markdown]
# For weights that stand still the outlines of the two distances are alike but for their scatter: time does nothing, and
# what is not shared is the batch's. In training, some kinds of layer have directions near 1 between neighbouring
# captures, and fewer of them over the longer distance: those are the ones that move. The bulk of each outline lies
# where random subspaces have theirs, in both runs: most of sixteen directions are chance here.
#
# ## What it costs to keep a basis
#
# Angles count all directions alike; an optimizer loses energy, not directions. The ratio that an old basis still holds:

# %%
sl.figures.stale_energy.draw(runs["training"])

# %% [markdown]
# At age 0 the basis was chosen after looking at this very gradient; at any other age it was not. So the first drop is
# paid by every basis that is chosen on one batch, however often it is refreshed. What falls after that is what a
# shorter refresh interval could save.
#
# ## Over depth
#
# The same energy from block to block, early to late in training:

# %%
sl.figures.energy_over_depth.draw(runs["training"])

# %% [markdown]
# Blocks read from one residual stream and write into it. On that side (inputs of q, k, v, gate, up; outputs of o, down)
# the spaces of neighbouring blocks can be compared:

# %%
sl.figures.depth_overlap.draw(runs["training"])

# %% [markdown]
# Only on that side. The *outputs* of q, k and v are the coordinates of one block's heads, of which the next block knows
# nothing; whoever compares those measures chance, here r/m. Both sides of the square layers, at the last capture:

# %%
run, rows = runs["training"], []
step, rank = run.steps[-1], 16
for kind, layers in run.layers[run.layers["kind"].isin(["q_proj", "k_proj", "v_proj"])].groupby("kind", sort=False):
    for side, where in (("right", "inputs, the residual stream"), ("left", "outputs, the heads")):
        grams = [run.gram(step, name, side=side) for name in layers.sort_values("depth")["name"]]
        bases = [sl.numerics.gram_eigh(C, rank)[1] for C in grams]
        shared = [sl.numerics.overlap(a, b) for a, b in itertools.pairwise(bases)]
        rows.append({"kind": kind, "side": where, "overlap": sum(shared) / len(shared), "random": rank / len(grams[0])})
pd.DataFrame(rows).pivot(index=["kind", "random"], columns="side", values="overlap").round(2)

# %% [markdown]
# ## Where this misleads
#
# - 25 steps of a small model are the beginning of a training. Early gradients have few directions; nothing here says
#   how they are after ten thousand steps.
# - The weights that stand still stand at their initial values. Late in training the noise of a batch is another one: to
#   know it there, load a checkpoint and let that stand still.
# - Everything depends on r/m. Never compare two overlaps, or two energies, at different r/m without their nulls.
