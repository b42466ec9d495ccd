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
# # Regenerating the figures
#
# `subspace-lab figures OUT_DIR --profile smoke|cpu|paper` trains what is missing, measures, draws, and writes a page
# that decides claim by claim. Here is what it leaves and how to go on from there, at the smallest scale: four steps.
# **What these pictures show is that the code works**, not how gradients are; those of the profile `cpu` lie in the
# directory `figures` of the repository.

# %%
import warnings
from pathlib import Path

import pandas as pd
from IPython.display import Image, Markdown, display

import subspace_lab as sl
from subspace_lab.studies.grass_paper.quantities.energy import over_depth, over_training

# %matplotlib inline
# %config InlineBackend.print_figure_kwargs = {"bbox_inches": "tight", "facecolor": "white"}

warnings.filterwarnings("ignore", message="IProgress not found")  # of the progress bars of data sets
out = Path("figures-smoke")
page = sl.studies.grass_paper.regenerate(out, profile="smoke", only=["fig1", "ackley"])

# %% [markdown]
# ## What is left
#
# Everything that is drawn is drawn from a table on disk. The tables and `evidence.json` are all that is needed to go on
# later or elsewhere; `work` holds the run directories and may be removed.

# %%
print(*sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.parent in {out, out / "tables"}), sep="\n")

# %%
for name in ("fig1", "ackley"):
    display(Image(out / f"{name}.png", width=900))

# %% [markdown]
# ## From a table
#
# A table is tidy, one row per measurement, and a figure takes nothing else: filter it, and draw your own view.

# %%
table = pd.read_parquet(out / "tables" / "fig1.parquet")
table.head()

# %%
attention = table[table["kind"].isin(["q_proj", "v_proj"])]
over_training.draw(attention)

# %%
over_depth.draw(attention)

# %% [markdown]
# ## The page
#
# Every claim is a handful of statements, each a number with its interval over seeds and a verdict by a rule that is
# stated on the page. What was not measured says so.

# %%
Markdown(page.read_text().partition("## How it is decided")[0])

# %% [markdown]
# ## Drawn again
#
# With the tables there, the same call computes nothing, and draws the same bytes.

# %%
before = (out / "fig1.png").read_bytes()
(out / "fig1.png").unlink()
sl.studies.grass_paper.regenerate(out, profile="smoke", only=["fig1", "ackley"])
print("the same bytes:", (out / "fig1.png").read_bytes() == before)
