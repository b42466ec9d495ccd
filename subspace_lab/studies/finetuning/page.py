"""The page with methods, gradients and the verdict on every claim; written from the tables, never by hand."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from subspace_lab._text import count
from subspace_lab.experiments.claims import MATCH, RULES, Claim, Statement, together
from subspace_lab.experiments.page import picture_parts, statement_table, verdict_table, without_result
from subspace_lab.experiments.present import EDGE, number
from subspace_lab.experiments.protocol import TUNING_SEEDS
from subspace_lab.experiments.study import Quantity
from subspace_lab.report.pages import markdown_table
from subspace_lab.runs.files import publish
from subspace_lab.studies.finetuning.claims import CLAIMS, SCORE_MATCH
from subspace_lab.studies.finetuning.out_dir import FinetuningStore
from subspace_lab.studies.finetuning.profiles import Profile
from subspace_lab.studies.finetuning.trials import SOURCES, TEXT, sources_of


def write(store: FinetuningStore, quantities: Mapping[str, Quantity], path: Path, pictures: Path) -> None:
    """Write the page to `path`, with relative links to the tables and to the directory of the pictures."""
    found = {claim.name: claim.statements(store) for claim in CLAIMS}
    parts = [
        _head(store),
        "\n".join(["## In short", "", *markdown_table(*verdict_table(found))]),
        _rules(store.profile),
    ]
    parts += [*_methods(store), _sources(store)]
    parts += [_claim(claim, found[claim.name]) for claim in CLAIMS]
    parts += picture_parts(quantities, store.path, pictures, path)
    if lost := without_result(store.results):
        parts.append("## Trainings without a result\n\n" + "\n".join(lost))
    with publish(path) as aside:
        aside.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")


def _head(store: FinetuningStore) -> str:
    environment, done = store.manifest["environment"], int((store.results["status"] == "complete").sum())
    where = ", ".join(
        f"{name} {environment[name]}" for name in ("processor", "torch", "python") if environment.get(name)
    )
    return (
        "# Fine-tuning\n\n"
        f"Written by `subspace-lab finetuning OUT_DIR --profile {store.profile.name}` from the tables in its `tables` "
        f"directory; nothing here is written by hand. {done} trainings are "
        f"complete{f' ({where})' if where else ''}.\n\n"
        f"**Scale.** {scale(store.profile)} A verdict at this scale need not hold on GLUE with thousands of steps."
    )


def scale(profile: Profile) -> str:
    """What is trained, in some sentences."""
    config = profile.base
    assert config.batch_size is not None
    assert config.accumulation is not None
    model = f"`{config.model}`" if config.model else f"a random `{config.preset}`"
    what = sources_of(profile)
    scratch = next(reversed(what.values()))
    only = "" if len(profile.tasks) > 1 else " (the second task is left out where bfloat16 is not faster than float32)"
    return (
        f"{model} on {' and '.join(f'`{task}`' for task in profile.tasks)}{only}, "
        f"{count(len(profile.methods), 'method')}: "
        f"{config.steps} steps of {config.batch_size * config.accumulation} rows, {count(profile.seeds, 'seed')}, in "
        f"{config.precision}. Gradients are those of AdamW over {config.steps} steps, "
        f"{count(profile.captured_seeds, 'seed')}: "
        "of "
        f"the model on `{profile.tasks[0]}` and on `{what[TEXT].data}`, and of `{scratch.preset}` from scratch."
    )


def _rules(profile: Profile) -> str:
    tried = max(map(len, profile.rates.values()))
    settings = "; ".join(
        f"{name}: "
        + ", ".join(f"{key} {value}" for key, value in given.items() if key != "optimizer" and value is not None)
        for name, given in profile.methods.items()
        if len(given) > 1
    )
    return (
        f"## How it is decided\n\n{RULES}\n\nTo match another method in right replies is to have a share of them that "
        "is "
        f"lower by less than {SCORE_MATCH:g}; in loss the {MATCH:g} nats of above count.\n\n"
        f"Every method, AdamW included, is tuned over {tried} rates of the matrices, a factor of about three apart, by "
        "the "
        f"held-out loss after {profile.tuning_steps} steps on seed {', '.join(map(str, TUNING_SEEDS))}, which is not "
        f"evaluated. What has no rank (embeddings and norms) has the rate {profile.config.lr_rest:g} with all of them; "
        "LoRA "
        f"leaves it as it is. Settings: {settings}."
    )


def _methods(store: FinetuningStore) -> Iterator[str]:
    """A table per task."""
    table = store.read("scores")
    if table.empty:
        return
    for task, rows in table.groupby("task", sort=False):
        texts = [
            (
                row["method"], f"{row['lr']:g}{EDGE if row['edge'] else ''}",
                _mean(row, "score", "score_low", "score_high"), _mean(row, "eval_loss", "eval_low", "eval_high"),
                number(row["wall_s"], 1), number(row["state_bytes"] / 1e6, 1), number(row["peak_bytes"] / 1e6, 0),
                row["seeds"], row["failed"],
            )
            for row in rows.to_dict("records")
        ]  # fmt: skip
        headings = (
            "method", "lr", "right replies", "held-out loss", "time [s]", "state [MB]", "peak [MB]", "seeds", "failed",
        )  # fmt: skip
        yield "\n".join([f"## Every method: {task}", "", *markdown_table(headings, texts)])
    yield (
        f"- lr: of the matrices; {EDGE} at the end of what was tried: a better rate may lie beyond\n"
        "- right replies, held-out loss: mean over seeds [Student's 95 % interval]\n"
        "- time: of a training, without evaluations; peak: of the process, or of the GPU's allocator"
    )


def _mean(row: Mapping[Hashable, Any], name: str, low: str, high: str) -> str:
    ends = "" if pd.isna(row[low]) else f" [{row[low]:.3f}, {row[high]:.3f}]"
    return number(row[name], 3) + ends


def _sources(store: FinetuningStore) -> str:
    """Gradients of the pretrained model beside those of training from scratch."""
    table = store.read("gradients")
    if table.empty:
        return ""
    rows = []
    for source, name in SOURCES.items():
        for share, of in table[table["source"] == source].groupby("share"):
            means = of.groupby("depth")[["ratio", "change", "largest"]].mean()
            first, last = means["ratio"].iloc[0], means["ratio"].iloc[-1]
            rows.append((
                name, len(means), f"1/{share:g}", f"{of['ratio'].mean():.3f}", f"{of['null_noise'].mean():.3f}",
                f"{of['change'].mean():+.3f}", f"{first:.3f}, {last:.3f}", f"{of['largest'].mean():.4f}",
                f"{of['largest_noise'].mean():.4f}",
            ))  # fmt: skip
    headings = (
        "gradients", "blocks", "r/m", "ratio", "of noise", "change over training", "first, last block",
        "largest σ/‖G‖²", "of noise",
    )  # fmt: skip
    return "\n".join(["## Gradients: pretrained beside from scratch", "", *markdown_table(headings, rows)])


def _claim(claim: Claim, statements: list[Statement]) -> str:
    head = f"## {claim.name}\n\n{claim.text}\n\n"
    if not statements:
        return head + "Not measured yet."
    return (
        head + f"**{together(statements).capitalize()}.**\n\n" + "\n".join(markdown_table(*statement_table(statements)))
    )
