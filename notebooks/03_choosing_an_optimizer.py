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
# # Choosing and composing an optimizer
#
# What the methods cost in memory, which matrices they act on, how one is put together from three parts, and how to
# find out on a problem of yours whether a part is worth having. The problem here is a toy, chosen because it trains in
# a moment: the way of comparing carries over to a language model, the results do not.

# %%
import pandas as pd
import torch
from matplotlib.figure import Figure

import subspace_lab as sl
from subspace_lab.figures.axis import log_axis
from subspace_lab.figures.panels import line_style

# %matplotlib inline
# %config InlineBackend.print_figure_kwargs = {"bbox_inches": "tight", "facecolor": "white"}

# %% [markdown]
# ## What it costs
#
# Bytes that stay between steps, counted from the shapes; nothing is built. At equal rank most methods keep the same;
# what differs is the basis (some draw it again from a seed) and the whole matrices that LDAdam keeps.

# %%
shapes = sl.training.parameter_shapes(sl.training.preset("llama-350m"))
reports = {name: sl.optim.memory_report(shapes, name, rank=256) for name in sl.optim.METHODS}
memory = pd.DataFrame({
    name: {"moments and the like": report.states / 1e9, "bases": report.bases / 1e9} for name, report in reports.items()
}).T
memory = memory.loc[memory.sum(axis=1).sort_values(ascending=False).index]

with sl.figures.style(sl.figures.PAGE):
    figure = Figure(figsize=(7.2, 3), layout="constrained")
    ax = figure.subplots()
    left = 0 * memory["bases"]
    for part, colour in (("moments and the like", "#0072b2"), ("bases", "#e69f00")):
        ax.barh(memory.index, memory[part], left=left, color=colour, label=part)
        left = left + memory[part]
    ax.set(xlabel="optimizer state of llama-350m at rank 256, float32 (GB)")
    ax.legend()
figure

# %% [markdown]
# It misleads in small models, and in those with large vocabularies: embeddings and heads stay full-rank AdamW in all of
# these methods but BAdam, and no rank makes them smaller.
#
# ## Which matrices
#
# `param_groups` gives the rank to matrices whose names say neither embedding nor head nor norm. A group without a rank
# is AdamW. Printing the optimizer shows what it will do.

# %%
WIDTH, RANK = 32, 4


def student(seed):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(WIDTH, 96), torch.nn.Tanh(), torch.nn.Linear(96, WIDTH))


def groups(model):
    return sl.optim.param_groups(model, rank=RANK, update_interval=10)


print(sl.optim.GrassWalk(groups(student(0)), lr=1e-2))

# %% [markdown]
# ## Put together from parts
#
# Most methods are `SubspaceAdam` with a *rule* (how the basis is refreshed), *moments* (what becomes of Adam's moments
# then) and a *recovery* (what becomes of the gradient outside of the subspace). GrassWalk is walk, transport and
# scaled, bit for bit:

# %%
generator = torch.Generator().manual_seed(0)
hidden, readout = (torch.randn(WIDTH, WIDTH, generator=generator) / WIDTH**0.5 for _ in range(2))
scales = torch.arange(1, WIDTH + 1) ** -0.5  # inputs with few strong directions


def train(make, seed, steps=60):
    """Losses of a student that learns from a teacher; every method sees the same weights and batches."""
    model, draw = student(seed), torch.Generator().manual_seed(1000 + seed)
    optimizer, losses = make(model), []
    for _ in range(steps):
        x = torch.randn(64, WIDTH, generator=draw) * scales
        loss = (model(x) - torch.tanh(x @ (3 * hidden)) @ readout).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


named = train(lambda model: sl.optim.GrassWalk(groups(model), lr=1e-2), seed=0)
parts = {"rule": "walk", "moments": "transport", "recovery": "scaled"}
composed = train(lambda model: sl.optim.SubspaceAdam(groups(model), lr=1e-2, **parts), seed=0)
print(named == composed)

# %% [markdown]
# ## A rule of one's own
#
# An object with two methods. It must be stateless, and what it draws comes from `context.draw`: then a resumed run is
# exact. This one, the "sketch", is the range of the gradient applied to a few random vectors, something between the
# SVD and a random jump, for the price of one product:


# %%
class Sketch:
    def first(self, G, rank, context):
        return torch.linalg.qr(G @ context.draw(G.shape[1], rank).to(G)).Q

    def refresh(self, S, G, context):
        return self.first(G, S.shape[1], context)


# %% [markdown]
# ## A short comparison
#
# Every method gets the same learning rates and the same seeds, full-rank AdamW included. `frozen`, a basis that is
# never refreshed, is what a rule has to beat.

# %%
full = {"moments": "transport", "recovery": "scaled"}  # as GrassWalk and GrassJump
METHODS = {
    "AdamW": lambda model, lr: torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0),
    "GaLore": lambda model, lr: sl.optim.GaLore(groups(model), lr=lr, scale=1.0),
    "GrassWalk": lambda model, lr: sl.optim.GrassWalk(groups(model), lr=lr),
    "GrassJump": lambda model, lr: sl.optim.GrassJump(groups(model), lr=lr),
    "APOLLO": lambda model, lr: sl.optim.APOLLO(groups(model), lr=lr),
    "sketch": lambda model, lr: sl.optim.SubspaceAdam(groups(model), lr=lr, rule=Sketch(), **full),
    "frozen": lambda model, lr: sl.optim.SubspaceAdam(groups(model), lr=lr, rule="frozen", **full),
}
LRS, SEEDS = (3e-3, 1e-2, 3e-2, 1e-1), (0, 1, 2)


def compared(methods):
    """One row per method, learning rate, seed and step."""
    return pd.concat([
        pd.DataFrame({"method": name, "lr": lr, "seed": seed, "loss": train(lambda m: make(m, lr), seed)})  # noqa: B023
        for name, make in methods.items() for lr in LRS for seed in SEEDS
    ]).rename_axis("step").reset_index()  # fmt: skip


curves = compared(METHODS)
final = curves[curves["step"] >= 45].groupby(["method", "lr", "seed"], sort=False)["loss"].mean().reset_index()


def drawn(summary, xlabel, ylabel, log_x=False):
    """The mean over seeds of each method, and its lowest and highest seed."""
    with sl.figures.style(sl.figures.PAGE):
        figure = Figure(figsize=(7.2, 3.2), layout="constrained")
        ax = figure.subplots()
        for place, name in enumerate(METHODS):
            rows, style = summary.loc[name], line_style(place)
            ax.fill_between(rows.index, rows["min"], rows["max"], color=style["color"], alpha=0.2, linewidth=0)
            ax.plot(rows.index, rows["mean"], **style, markevery=max(1, len(rows) // 8), label=name)
        log_axis(ax, low=summary["min"].min(), high=summary["max"].max())
        if log_x:
            log_axis(ax, x=True, low=min(LRS), high=max(LRS))
        ax.set(xlabel=xlabel, ylabel=ylabel)
        figure.legend(loc="outside right upper")
    return figure


drawn(
    final.groupby(["method", "lr"])["loss"].agg(["mean", "min", "max"]),
    "learning rate",
    "loss, mean of steps 45 to 59",
    log_x=True,
)

# %% [markdown]
# Read it by the lowest point of each line. At any one learning rate the order of the methods is mostly that of their
# step lengths, and another learning rate gives another order: a comparison at one learning rate shows nothing. A line
# whose lowest point lies at the edge was not tuned; widen the grid. Where a line lies on that of `frozen`, the
# refreshes did nothing.
#
# At its best learning rate each:

# %%
tuned = final.groupby(["method", "lr"], sort=False)["loss"].mean().reset_index()
best = tuned.loc[tuned.groupby("method", sort=False)["loss"].idxmin(), ["method", "lr"]]
at_best = curves.merge(best).groupby(["method", "step"])["loss"].agg(["mean", "min", "max"])
drawn(at_best, "step", "loss")

# %% [markdown]
# Three seeds have a spread, and differences inside of it are none. Paired by seed, the difference from `frozen` says
# whether a rule was worth its refreshes:

# %%
paired = final.merge(best).pivot(index="seed", columns="method", values="loss")
difference = paired.drop(columns="frozen").sub(paired["frozen"], axis=0)
difference.agg(["mean", "min", "max"]).T.round(5)

# %% [markdown]
# ## One part at a time
#
# Rules with and without recovery, each cell at its own best learning rate:

# %%
cells = {
    f"{rule}/{recovery}": lambda model, lr, rule=rule, recovery=recovery: sl.optim.SubspaceAdam(
        groups(model), lr=lr, rule=rule, moments="transport", recovery=recovery
    )
    for rule in ("svd", "jump", "frozen")
    for recovery in ("none", "scaled")
}
ablation = compared(cells)
losses = ablation[ablation["step"] >= 45].groupby(["method", "lr"])["loss"].mean().groupby("method").min()
losses.index = pd.MultiIndex.from_tuples([tuple(name.split("/")) for name in losses.index], names=["rule", "recovery"])
losses.unstack().round(4)

# %% [markdown]
# ## The limiter, the part that is easily overlooked
#
# `scaled` recovery has a limiter (`zeta`): the norm of the recovered part may grow by one percent per step. The
# gradient that an svd basis was chosen on leaves the smallest remainder that there is (hence the peaks), the gradients
# after it leave more, and are held back. A random basis leaves much to begin with. The factor that was applied:

# %%
factors = {}
for rule in ("svd", "walk", "jump"):
    seen = []

    def make(model, rule=rule, seen=seen):
        optimizer = sl.optim.SubspaceAdam(groups(model), lr=1e-2, rule=rule, **full)
        optimizer.register_step_post_hook(lambda opt, *_: seen.append(pd.Series(opt.limiter_factors()).mean()))
        return optimizer

    train(make, seed=0)
    factors[rule] = seen

with sl.figures.style(sl.figures.PAGE):
    figure = Figure(figsize=(7.2, 2.6), layout="constrained")
    ax = figure.subplots()
    for place, (rule, seen) in enumerate(factors.items()):
        ax.plot(range(1, len(seen) + 1), seen, **line_style(place), markevery=8, label=rule)
    ax.set(xlabel="step, counted from 1", ylabel="factor of the limiter (1: none)", ylim=(0, 1.05))
    ax.legend(ncols=3)
figure

# %% [markdown]
# So a comparison of rules under one limiter is partly one of first bases; run it with `zeta=None` too.
#
# ## On a model of yours
#
# - `subspace-lab compare OUT_DIR --methods grasswalk,grassjump,galore,adamw --lrs 1e-3,3e-3 --seeds 3` does the same
#   with language models: the same batches and initial weights for all, in parallel, resumable.
# - `subspace-lab recommend RUN_DIR` reads a rank and a refresh interval per layer off a captured run.
# - What misleads here misleads there: too few seeds, a grid that ends too early, one learning rate for all.
