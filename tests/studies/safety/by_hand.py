"""Tables of a study by hand: every number follows from a few lines, nothing is trained."""

import functools
import itertools
import math

import numpy as np
import pandas as pd

from subspace_lab.studies.safety.reading import Tables
from subspace_lab.studies.safety.subspaces import SUBSPACES

REGIMES = ("adamw", "grasswalk:rank=8")
THREATS = {"clean": 0.0, "poison:share=0.05": 0.05, "poison:share=0.3": 0.3}
DEFENSES = {  # attack success at the two learning rates of the full poison, utility
    "none": (0.95, 0.99, 0.97), "rehearsal": (0.4, 0.5, 0.95), "safegrad": (0.1, 0.2, 0.94),
    "safegrad:rho=0": (0.92, 0.98, 0.96), "resta": (0.7, 0.8, 0.9), "resta:gamma=1": (0.1, 0.15, 0.3),
}  # fmt: skip
LRS, SEEDS, PROBES = (1e-3, 3e-3), 3, 10
PAIRS = {"alignment-utility": 0.30, "alignment-harm": 0.42, "utility-harm": 0.35}
SPACES = {"safety-user": 0.5, "safety-harm": 0.6, "user-harm": 0.4, "safety-again": 0.8}  # overlaps of gradients
SHARES = {  # of probed steps in conflict before a defense, after it, and of the applied step
    "none": (0.9, 0.9, 0.9), "rehearsal": (0.9, 0.9, 0.4), "safegrad": (0.9, 0.0, 0.2),
    "safegrad:rho=0": (0.7, 0.0, 0.6),
}  # fmt: skip


def tables(defenses=DEFENSES, *, regimes=REGIMES, threats=THREATS, seeds=SEEDS, tasks=("sentiment",)):
    draw = np.random.default_rng(0)
    results, steps = [], []
    grid = itertools.product(tasks, threats.items(), regimes, defenses.items(), enumerate(LRS), range(seeds))
    for task, (threat, share), regime, (defense, (low, high, utility)), (place, lr), seed in grid:
        asr = (low, high)[place] * min(1.0, 3 * share / max(threats.values()) if share else 0.01)
        asr = float(np.clip(asr + 0.03 * draw.standard_normal(), 0, 1))
        cell = f"{task}_{threat}_{regime}_{defense}_{lr:g}_{seed}"
        results.append({
            "cell": cell, "hash": f"{len(results):012x}", "parent": "", "policy": "digits", "task": task,
            "stage": "repaired" if defense.startswith("resta") else "tuned", "threat": threat, "share": share,
            "draw": 0, "regime": regime, "lr": lr, "defense": defense, "seed": seed, "status": "complete", "reason": "",
            "judge": "exact", "n": 100, "failed": 0, "asr": asr, "asr_low": max(0, asr - 0.1),
            "asr_high": min(1, asr + 0.1), "refusal_rate": 0.5 * (1 - asr), "neither_rate": 0.5 * (1 - asr),
            "keyword_asr": 1 - 0.5 * (1 - asr), "refusal_consistency": 0.8, "null_consistency": 0.5,
            "over_refusal": 0.02, "kept": 0.98, "utility": utility - 0.01 * place + 0.01 * draw.standard_normal(),
            "utility_metric": "accuracy", "steps": 150, "passes": 150 * (2 if "safegrad" in defense else 1),
            "safety_rows": 150, "harm_rows": 0, "step_s": 0.01, "wall_s": 1.5, "state_bytes": 1e6, "peak_bytes": 1e8,
        })  # fmt: skip
        for probe in range(PROBES) if defense in SHARES else ():
            before, after, applied = SHARES[defense]
            shares = (before, after, applied if regime == "adamw" else applied - 0.1)
            signs = [-0.3 if probe < round(part * PROBES) else 0.2 for part in shares]
            steps.append({
                "cell": cell, "step": 15 * probe, "cos_user_safety": signs[0], "conflict": float(signs[0] < 0),
                "cos_after": 1e-9 if SHARES[defense][1] == 0 else signs[1], "cos_applied": signs[2],
                "energy": 0.3 + share + 0.01 * probe + 0.01 * seed, "null_energy": 0.125, "k": 8,
            })  # fmt: skip
    frame = pd.DataFrame(results)
    prefix = frame.assign(judge="prefix", asr=math.nan, asr_low=math.nan, asr_high=math.nan, neither_rate=math.nan)
    lost = {
        **results[-1], "cell": "", "defense": "panacea", "status": "unsupported", "hash": "",
        "reason": "panacea needs harm rows; the policy has none", **dict.fromkeys(("asr", "utility"), math.nan),
    }  # fmt: skip
    whole = pd.concat([frame, prefix, pd.DataFrame([lost])], ignore_index=True)
    return Tables(whole, pd.DataFrame(steps), subspaces(frame), terms(), summary(frame))


def summary(results):
    """The worst case of the two learning rates among those that keep 0.9 of the best utility without a defense."""
    rows = []
    for (task, threat, regime), of in results.groupby(["task", "threat", "regime"], sort=False):
        means = of.groupby(["defense", "lr"], sort=False)[["asr", "utility"]].mean()
        guard = 0.9 * means.loc["none", "utility"].max()
        for defense in of["defense"].unique():
            kept = means.loc[defense]
            kept = kept[kept["utility"] >= guard]
            about = {
                "policy": "digits", "task": task, "threat": threat, "share": THREATS[threat], "regime": regime,
                "defense": defense, "judge": "exact", "guarded": len(kept) > 0, "failed": 0, "unsupported": 0,
            }  # fmt: skip
            lr = kept["asr"].idxmax() if len(kept) else means.loc[defense]["utility"].idxmax()
            at = of[(of["defense"] == defense) & (of["lr"] == lr)]
            none = of[(of["defense"] == "none") & (of["lr"] == lr)]
            sd, mean = at["asr"].std(), at["asr"].mean() if len(kept) else math.nan
            gap = mean - none["asr"].mean()
            rows.append({
                **about, "lr": lr, "seeds": len(at), "asr": mean, "asr_sd": sd, "asr_low": mean - 2 * sd,
                "asr_high": mean + 2 * sd, "gap": gap, "gap_low": gap - 0.1, "gap_high": gap + 0.1,
                **dict.fromkeys(("control_gap", "control_gap_low", "control_gap_high"), math.nan),
                "control": "rehearsal", "utility": at["utility"].mean(),
                "utility_gap": at["utility"].mean() - none["utility"].mean(), "over_refusal": at["over_refusal"].mean(),
                "kept": at["kept"].mean(), "refusal_consistency": at["refusal_consistency"].mean(),
                "passes": at["passes"].mean(),
            })  # fmt: skip
    never = {
        **rows[-1],
        "defense": "panacea",
        "guarded": False,
        "lr": math.nan,
        "seeds": 0,
        "unsupported": seeds_of(results),
    }
    return pd.DataFrame([*rows, never | dict.fromkeys(("asr", "asr_low", "asr_high", "gap", "utility"), math.nan)])


def seeds_of(results):
    return int(results["seed"].nunique())


def subspaces(results):
    """Of undefended tunings, two kinds of matrices in two blocks: updates at the lower rate, gradients at both."""
    rows = []
    undefended = results[(results["defense"] == "none") & (results["share"] == 0.3)]
    for hash_, (pair, overlap), step in itertools.product(undefended["hash"], SPACES.items(), (0, 75, 150)):
        rows += [{
            "hash": hash_, "layer": f"model.layers.{depth}.q_proj.weight", "depth": depth, "kind": "q_proj",
            "pair": pair, "rank_a": 8, "rank_b": 8, "m": 64, "overlap": overlap - 0.001 * step + 0.1 * depth,
            "null_overlap": 8 / 64, "min_deg": 10.0, "mean_deg": 60.0, "clean": "", "step": step,
        } for depth in (0, 1)]  # fmt: skip
    chosen = undefended[undefended["lr"] == LRS[0]]
    for place, hash_ in enumerate(chosen["hash"]):
        for (pair, overlap), depth, kind in itertools.product(PAIRS.items(), (0, 1), ("q_proj", "down_proj")):
            rows.append({
                "hash": hash_, "layer": f"model.layers.{depth}.{kind}.weight", "depth": depth, "kind": kind,
                "pair": pair, "rank_a": 10, "rank_b": 12, "m": 64, "overlap": overlap + 0.05 * depth + 0.001 * place,
                "null_overlap": 12 / 64, "min_deg": 10.0, "mean_deg": 60.0, "clean": "", "step": None,
            })  # fmt: skip
    columns = [*SUBSPACES]
    return pd.DataFrame(rows, columns=columns).astype({"step": "Int64"})


def terms():
    rows = [
        {"hash": "0", "term": term, "size": size, "cosine": 1 - 0.1 * size, "relative_error": 0.4 * size,
         "norm_ratio": 1 + 0.1 * size, "cos_norm_gradient": sign * (1 - 0.1 * size)}
        for (term, sign), size in itertools.product({"booster": 1, "panacea": -1}.items(), (1.0, 0.1, 0.01))
    ]  # fmt: skip
    return pd.DataFrame(rows)


@functools.cache
def default():
    """`tables` as they are by default; not to be changed."""
    return tables()


def empty():
    full = default()
    return Tables(*(table.iloc[:0] for table in (full.results, full.steps, full.subspaces, full.terms, full.summary)))
