"""Few labelled rows of the breast-cancer table with scores of its features, without, and with shuffled ones (LAAT).

A logistic regression is trained on 1 to 10 rows per class of scikit-learn's table, features scaled to [0, 1] over the
training half (whose labels are not seen), Adam with the authors' settings. The arms see the same rows: without the
term, with it in both forms, and with the same scores shuffled over the features, the null: what shuffled scores gain
comes from their size and signs, and not from which feature has which.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import MinMaxScaler
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from benchmarks._measure import publish_result
from subspace_lab.experiments.statistics import paired
from subspace_lab.regularizers import attribution_alignment

SCORES = Path(__file__).with_name("attribution_scores.json")
SHOTS = (1, 2, 5, 10)
SEEDS = 5
GAMMA, LR, STEPS = 100.0, 1e-2, 200  # of the authors' experiments
ARMS = ("none", "scores", "shuffled", "released", "released shuffled")


def halves(seed: int) -> tuple[np.ndarray, ...]:
    """Training and test rows, scaled by the training half, and 1 for malignant."""
    table = load_breast_cancer()
    y = 1 - table.target
    x_train, x_test, y_train, y_test = train_test_split(table.data, y, test_size=0.5, random_state=seed, stratify=y)
    scaler = MinMaxScaler().fit(x_train)
    return scaler.transform(x_train), scaler.transform(x_test), y_train, y_test


def scores_of_features() -> Tensor:
    """The scores in the order of the table's columns; a name that is missing on either side is an error."""
    content = json.loads(SCORES.read_text(encoding="utf-8"))["scores"]
    names = [str(name) for name in load_breast_cancer().feature_names]
    if set(names) != set(content):
        raise SystemExit(f"{SCORES.name} and the table name different features: {set(names) ^ set(content)}")
    return torch.tensor([float(content[name]) for name in names])


def few(y: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """So many rows of each class."""
    draw = np.random.default_rng([seed, shots])
    return np.concatenate([draw.choice(np.flatnonzero(y == label), shots, replace=False) for label in (0, 1)])


def trained(x: Tensor, y: Tensor, scores: Tensor | None, form: Any, seed: int) -> nn.Module:
    """A logistic regression after all steps on all rows at once."""
    torch.manual_seed(seed)
    model = nn.Linear(x.shape[1], 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = binary_cross_entropy_with_logits(model(x)[:, 0], y)
        if scores is not None:
            loss = loss + attribution_alignment(model, x, torch.sum, scores, gamma=GAMMA, form=form)
        loss.backward()
        optimizer.step()
    return model


def measure(shots: int, seed: int) -> list[dict[str, Any]]:
    """A row of metrics for every arm."""
    x_train, x_test, y_train, y_test = halves(seed)
    chosen, scores = few(y_train, shots, seed), scores_of_features()
    shuffled = scores[torch.randperm(len(scores), generator=torch.Generator().manual_seed(seed))]
    x, y = (torch.tensor(part[chosen], dtype=torch.float32) for part in (x_train, y_train))
    rows = []
    for arm in ARMS:
        given = None if arm == "none" else shuffled if "shuffled" in arm else scores
        model = trained(x, y, given, "released" if "released" in arm else "paper", seed)
        with torch.no_grad():
            logits = model(torch.tensor(x_test, dtype=torch.float32))[:, 0].numpy()
        auc, accuracy = roc_auc_score(y_test, logits), accuracy_score(y_test, logits > 0)
        rows.append({"shots": shots, "seed": seed, "arm": arm, "auc": float(auc), "accuracy": float(accuracy)})
    return rows


def gaps(table: pd.DataFrame, metric: str, pairs: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """Paired differences of arms over the seeds, with 95 % intervals, by the number of rows."""
    found = []
    for shots, part in table.groupby("shots"):
        of_arm = part.pivot(index="seed", columns="arm", values=metric)
        for arm, other in pairs:
            found.append({"shots": int(shots), "metric": metric, "arm": arm, "against": other,
                          **paired(of_arm[arm], of_arm[other])})  # fmt: skip
    return found


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    table = pd.DataFrame([row for shots in SHOTS for seed in range(SEEDS) for row in measure(shots, seed)])
    pairs = [("scores", "none"), ("scores", "shuffled"), ("shuffled", "none"), ("released", "none"),
             ("released", "released shuffled"), ("released shuffled", "none")]  # fmt: skip
    differences = [gap for metric in ("auc", "accuracy") for gap in gaps(table, metric, pairs)]
    means = table.groupby(["shots", "arm"])[["auc", "accuracy"]].mean().reset_index()
    print(means.pivot(index="shots", columns="arm", values="auc")[[*ARMS]].round(3))
    print(means.pivot(index="shots", columns="arm", values="accuracy")[[*ARMS]].round(3))
    settings = {"gamma": GAMMA, "lr": LR, "steps": STEPS, "seeds": SEEDS, "scores": SCORES.name}
    results = {"settings": settings, "means": means.to_dict("records"), "paired": differences}
    by_pair = {(gap["shots"], gap["metric"], gap["arm"], gap["against"]): gap for gap in differences}
    targets = {
        f"AUC with {shots} per class, gain of the scores over {other}, lower end of its interval": (
            by_pair[shots, "auc", "scores", against]["gap_low"], ">=", 0.0,
        )
        for shots in SHOTS
        for against, other in (("none", "none"), ("shuffled", "shuffled ones"))
    }  # fmt: skip
    publish_result(results, targets)


if __name__ == "__main__":
    main()
