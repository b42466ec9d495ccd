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
# # A first look at a run
#
# How much of each gradient lies in a low-dimensional subspace, how that compares with noise, and how the subspace
# moves. The run is the one that `make demo` leaves in `runs/demo`; without it, a much smaller one is made here in a few
# seconds.

# %%
import tempfile
from pathlib import Path

import subspace_lab as sl

# %matplotlib inline
# %config InlineBackend.print_figure_kwargs = {"bbox_inches": "tight", "facecolor": "white"}

# %%
demos = [path for path in (Path("runs/demo"), Path("../runs/demo")) if (path / "report.html").exists()]
if demos:
    run = sl.Run.open(demos[0])
else:
    sources = str(Path(sl.__file__).parent / "**" / "*.py")
    config = sl.TrainConfig(
        preset="llama-2m", data=sources, vocab_size=512, steps=12, every=2, batch_size=2, sequence_length=64,
        eval_every=None, precision="float32",
    )  # fmt: skip
    run = sl.Run.open(sl.train(Path(tempfile.mkdtemp()) / "run", config), write=True)
    sl.analysis.analyze(run)
print(f"{len(run.layers)} layers, {len(run.steps)} snapshots, keep={run.keep}")

# %% [markdown]
# What the tables say, in words:

# %%
for finding in sl.analysis.findings(run):
    print(f"{finding.title}\n  {finding.text}\n")

# %% [markdown]
# ## Energy
#
# The share of the gradient that its own top-r subspace holds over training, at one rank: a quarter of m, or a smaller
# one where that holds nearly everything. Look at the distance from the dashed line (what noise of that shape gives),
# not from zero.

# %%
sl.figures.energy_over_training.draw(run)

# %% [markdown]
# One rank is one point of a curve. What is left outside, over all measured ranks:

# %%
sl.figures.energy_by_rank.draw(run)

# %% [markdown]
# The tables behind the figures are tidy; everything else is pandas. Mean over the layers and steps:

# %%
energy = run.table("energy")
own = energy[energy["basis"] == "own"]
own.groupby("rank")[["fraction", "null_noise", "null_isotropic"]].mean().round(4)

# %% [markdown]
# ## How long a basis lasts
#
# The energy that the basis of an earlier gradient holds, against its age in steps. Where the curve comes near the
# dotted line, the old basis is no better than one chosen blindly.

# %%
sl.figures.stale_energy.draw(run)

# %% [markdown]
# ## Depth

# %%
sl.figures.energy_over_depth.draw(run)

# %% [markdown]
# ## Turning
#
# Overlap of the subspace with the one of the capture before, and with the first one.

# %%
sl.figures.angle_drift.draw(run)

# %% [markdown]
# ## Curvature of the subspace error
#
# Leading singular values of the derivative of the error at a stale basis. Small values alone mean little: the dashed
# line is what noise gives.

# %%
sl.figures.tangent_spectrum.draw(run)
