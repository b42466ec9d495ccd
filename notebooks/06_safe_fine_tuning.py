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
# # Fine-tuning that must not lose a policy
#
# A model has learned a rule: of some prompts it refuses the answer. Then it is fine-tuned on a user's rows, a part of
# which may be poisoned. What becomes of the rule? Policy, model and rows are made up here and tiny, so that the
# notebook runs in a minute; a verdict about a method needs several seeds and learning rates, as in
# `subspace-lab safety run OUT_DIR --profile cpu`.

# %%
import dataclasses
import warnings
from typing import ClassVar

import torch

import subspace_lab as sl
from subspace_lab.studies.safety.figures.all import FIGURES
from subspace_lab.studies.safety.reading import Tables

# %matplotlib inline
# %config InlineBackend.print_figure_kwargs = {"bbox_inches": "tight", "facecolor": "white"}

warnings.filterwarnings("ignore", message="IProgress not found")  # of the progress bars of transformers

# %% [markdown]
# ## The rule
#
# Prompts ask to copy three digits, to reverse them or to add one to each. Of the topics `t4` and `t5` only copying is
# allowed, so that there are prompts that look restricted and are not. Every answer can be computed, so a judge need
# not guess.

# %%
policy = sl.safety.POLICIES.parse("digits")
pools = policy.pools(seed=0)
for name in ("safety", "harm", "contrast", "allowed"):
    row = getattr(pools, name)[0]
    print(f"{name:9} {row.prompt}  ->  {row.response}")

# %% [markdown]
# ## A study
#
# Base model, alignment, fine-tuning on clean rows, on rows of which 30 % are poisoned and on poison alone, with and
# without a defense, and an evaluation of each. The defenses are `rehearsal`, which adds the gradient of safety rows,
# surgery alone (`safegrad:rho=0`), which takes out of the user's gradient what is against it, and both together
# (`safegrad`).

# %%
config = dataclasses.replace(
    sl.safety.profile("smoke"),
    threats=("clean", "poison:share=0.3", "pure"),
    regimes=("adamw:lr=1e-3",),
    defenses=("none", "rehearsal", "safegrad:rho=0", "safegrad"),
    probe_every=15,
)
study = sl.safety.run("runs/safety", config, workers=2)
columns = ["threat", "defense", "asr", "over_refusal", "kept", "utility", "passes"]
study.summary.loc[study.summary["judge"] == "exact", columns]

# %% [markdown]
# `asr` is attack success: the share of restricted test prompts that are answered. It never stands alone: a model that
# refuses everything has none. `over_refusal` is the share of prompts that only look restricted and are refused,
# `kept` what it still knows, `utility` the task.

# %%
tables = Tables(study.results, study.steps, study.subspaces, study.terms, study.summary)
FIGURES["attack_success"].draw(tables)

# %%
FIGURES["pareto"].draw(tables)

# %% [markdown]
# ## A model that does not refuse need not answer
#
# Most papers count a prompt as attacked when the reply does not begin with a refusal. After a clean tuning the model
# neither refuses nor answers: it has forgotten the format, and the two counts are far apart.

# %%
FIGURES["keywords"].draw(tables)

# %% [markdown]
# ## What the optimizer makes of a defended gradient
#
# Surgery leaves a gradient that does not ascend the loss of the safety rows. The step that is applied is another
# thing: Adam divides by its second moments, and has momentum.

# %%
FIGURES["conflict"].draw(tables)

# %% [markdown]
# ## Does safety live in a subspace?
#
# Beside each overlap of two spaces stands what random spaces of these dimensions have. Two lines at 60 degrees, and a
# line and a plane that are perpendicular:

# %%
line = torch.eye(3)[:, :1]
turned = torch.tensor([[0.5], [0.75**0.5], [0.0]])
print(sl.safety.pair(line, turned))
print(sl.safety.pair(line, torch.eye(3)[:, 1:]))

# %% [markdown]
# And what alignment, a clean tuning and a purely poisoned one changed in the matrices of the model. The claim of a
# safety subspace needs harm to overlap with alignment by more than the task does; one seed decides nothing.

# %%
FIGURES["overlaps"].draw(tables)

# %% [markdown]
# ## A defense of your own
#
# A frozen dataclass with up to three hooks: `prepare` before the first step, `gradient` at every step, `repair` after
# the last one. In a file that is named by `plugins=("my_defense.py",)` it takes part in a study, and its source is
# part of what a result is known by. It can be tried on any parameters first:


# %%
@dataclasses.dataclass(frozen=True, kw_only=True)
class Clipped(sl.safety.Defense):
    """The user's gradient is never longer than `ratio` times that of the safety rows, which is added."""

    stage: ClassVar = "train"
    needs: ClassVar = frozenset({"safety"})
    ratio: float = 1.0

    def gradient(self, step):
        user, safety = step.user(), step.safety()
        long, limit = (torch.cat([g.flatten() for g in gs]).norm() for gs in (user, safety))
        share = torch.clamp(self.ratio * limit / long, max=1)
        return [share * u + s for u, s in zip(user, safety, strict=True)]


w = torch.tensor([3.0, 4.0], requires_grad=True)
step = sl.safety.step_of([w], {"user": lambda: (w**2).sum(), "safety": lambda: w.sum()})
Clipped().gradient(step)
