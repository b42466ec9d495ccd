"""The page with the verdict on every claim; written from the tables, never by hand."""

from __future__ import annotations

from pathlib import Path

from subspace_lab.experiments.claims import RULES, Claim, Statement, together
from subspace_lab.experiments.page import picture_parts, statement_table, verdict_table, without_result
from subspace_lab.experiments.present import legend, rows_of
from subspace_lab.report.pages import markdown_table
from subspace_lab.runs.files import publish
from subspace_lab.studies.grass_paper.claims import CLAIMS
from subspace_lab.studies.grass_paper.profiles import Profile
from subspace_lab.studies.grass_paper.quantities import QUANTITIES
from subspace_lab.studies.grass_paper.quantity import PaperStore


def write(store: PaperStore, path: Path, pictures: Path) -> None:
    """Write the page to `path`, with relative links to the tables and to the directory of the pictures."""
    of = {picture: name for name, quantity in QUANTITIES.items() for picture in quantity.pictures}
    found = {claim.name: claim.statements(store) if store.has(of.get(claim.figures[0], "")) else [] for claim in CLAIMS}
    parts = [_head(store), _verdicts(found), f"## How it is decided\n\n{RULES}\n\n{_protocol(store.profile)}"]
    parts += [_claim(claim, found[claim.name]) for claim in CLAIMS]
    parts += [_table(store), *picture_parts(QUANTITIES, store.path, pictures, path), _failures(store)]
    with publish(path) as aside:
        aside.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")


def _head(store: PaperStore) -> str:
    environment, done = store.manifest["environment"], int((store.results["status"] == "complete").sum())
    where = ", ".join(f"{name} {environment[name]}" for name in ("torch", "python") if name in environment)
    return (
        "# Evidence\n\n"
        f"Written by `{command(store.profile)}` from the tables in its `tables` directory; nothing here is written by "
        f"hand. {done} trainings are complete{f' ({where})' if where else ''}.\n\n"
        f"**Scale.** {scale(store.profile)} A verdict at this scale need not hold at 1B parameters and 10,000 steps, "
        "the setting of the papers; a refuted claim is a result, and stays."
    )


def command(profile: Profile) -> str:
    """The command that makes a profile's figures."""
    name, longer = profile.name.removesuffix("-longer"), profile.name.endswith("-longer")
    return f"subspace-lab figures OUT_DIR --profile {name}" + (" --longer" if longer else "")


def scale(profile: Profile) -> str:
    """What is trained, in a sentence."""
    config = profile.base
    assert config.batch_size is not None
    assert config.accumulation is not None
    rank = "the published rank" if config.rank is None else f"rank {config.rank}"
    text = (
        f"`{config.preset}` (vocabulary {config.vocab_size}) on `{config.data}`: {config.steps} steps of "
        f"{config.batch_size * config.accumulation} sequences of {config.sequence_length} tokens, {config.tokens:,} "
        f"tokens in all; {rank}, a refresh every {config.update_interval or 'so many'} steps; {profile.seeds} seeds."
    )
    if (size := profile.larger) is None:
        return text
    steps = size.settings.get("steps", config.steps)
    return (
        f"{text} {len(size.methods)} methods also in `{size.settings['preset']}`: {steps} steps, "
        f"rank {size.settings['rank']}, {size.seeds} seeds, tuned with {size.tuning.get('steps', steps)} steps."
    )


def _protocol(profile: Profile) -> str:
    """How every training was tuned."""
    budget, lrs = profile.budget, ", ".join(f"{lr:g}" for lr in profile.lrs)
    return (
        "Every method, AdamW and the nulls included, is tuned by itself, on a seed that is not evaluated: by "
        "coordinate search over the learning rate of the matrices and that of the rest (embeddings, head and norms; "
        f"the ladder {lrs}, and on beyond its ends), then over beta2 and the warm-up: at most "
        f"{1 + budget.rates + budget.fine} trainings. Variants of a method inherit its setting, and the rate of the "
        f"matrices is searched again for each: at most {1 + budget.variant} trainings."
    )


def _verdicts(found: dict[str, list[Statement]]) -> str:
    return "\n".join(["## In short", "", *markdown_table(*verdict_table(found))])


def _claim(claim: Claim, statements: list[Statement]) -> str:
    head = f"## {claim.name}\n\n{claim.text}\n\n"
    if not statements:
        return head + f"Not measured yet: {', '.join(claim.figures)}."
    lines = markdown_table(*statement_table(statements))
    return head + f"**{together(statements).capitalize()}.**\n\n" + "\n".join(lines)


def _table(store: PaperStore) -> str:
    table = store.read("tables")
    if table.empty:
        return ""
    rows = rows_of(table).assign(**{"time [s]": [f"{value:.1f}" for value in table["wall_s"]]})
    gap = (
        "gap: to the first row, paired by seed, with its interval, adjusted for the number of rows by Holm's "
        "procedure; not distinguishable where it contains zero"
    )
    notes = [f"- {line}" for line in (*legend(table), gap)]
    return "\n".join(["## Every method", "", *markdown_table(rows.columns, rows.itertuples(index=False)), "", *notes])


def _failures(store: PaperStore) -> str:
    lines = without_result(store.results)
    return "## Trainings without a result\n\n" + "\n".join(lines) if lines else ""
