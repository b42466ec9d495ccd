"""``subspace-lab safety``: run, list, report, verify, audit."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Group, Parameter

from subspace_lab.cli.compare import Words, split
from subspace_lab.cli.console import show
from subspace_lab.cli.parameters import STUDIED_HERE, File, OutDir, StudyOptions, check_whole

if TYPE_CHECKING:
    from rich.table import Table

    from subspace_lab.studies.safety import Study, StudyConfig
    from subspace_lab.studies.safety.registry import Registry

Listed = Literal["defenses", "policies", "tasks", "threats", "judges", "profiles"]
_AXES = ("tasks", "threats", "regimes", "defenses")
_LISTS = (*_AXES, "judges", "plugins")

safety = App(
    name="safety",
    help="Fine-tuning that must not lose a policy: attack it, defend it, and measure what became of it.",
    group_parameters=Group("Parameters", validator=check_whole),
)


@safety.command
def run(
    out_dir: OutDir,
    /,
    *,
    profile: str | None = None,
    policy: str | None = None,
    tasks: Words | None = None,
    threats: Words | None = None,
    regimes: Words | None = None,
    defenses: Words | None = None,
    judges: Words | None = None,
    seeds: int | None = None,
    draws: int | None = None,
    steps: int | None = None,
    base: str | None = None,
    aligned: str | None = None,
    plugins: Words | None = None,
    execution: StudyOptions = STUDIED_HERE,
    retry: bool = False,
    keep_weights: Literal["all", "none"] = "all",
    dry_run: bool = False,
) -> None:
    """Align a model to a policy, fine-tune it on clean and poisoned rows with every defense, and judge what came out.

    The same command goes on where it was cut; with more of anything it adds what is missing.

    Parameters
    ----------
    out_dir
        Where everything goes: cells, weights, tables, figures, report.
    profile
        smoke, cpu, smollm or gpu; the other options change it.
    policy
        The rule: digits, codenames, or user:harmful=FILE.
    tasks
        What the user fine-tunes for, separated by commas or spaces.
    threats
        clean, poison:share=0.05, pure, trigger, identity.
    regimes
        Optimizers with settings and rates: grasswalk:rank=8:lr=1e-3+3e-3, or lora:rank=8.
    defenses
        none, or chains: lox:k=8+safegrad+resta.
    judges
        exact, prefix, log_odds, classifier, rubric.
    seeds
        How many, from 0 on.
    draws
        How many draws of the user's rows for each seed.
    steps
        Of a tuning.
    base
        A pretrained model: smollm2, hf:NAME, or a directory.
    aligned
        An aligned model, instead of aligning one here.
    plugins
        Modules or .py files with parts of your own.
    execution
        How the jobs are run.
    retry
        Begin jobs again that diverged or failed.
    keep_weights
        none removes all weights once everything is complete.
    dry_run
        Print the jobs of each wave, what is not supported and the passes, and begin none.
    """
    config = _config(profile, {
        "policy": policy, "tasks": tasks, "threats": threats, "regimes": regimes, "defenses": defenses,
        "judges": judges, "seeds": seeds, "draws": draws, "steps": steps, "base": base, "aligned": aligned,
        "plugins": plugins,
    })  # fmt: skip
    how = execution.arguments()
    if dry_run:
        from subspace_lab.cli.figures import refuse_beside_dry_run

        kept = None if keep_weights == "all" else keep_weights
        refuse_beside_dry_run(retry=retry, keep_weights=kept, workers=how.pop("workers"))
        from subspace_lab.studies.safety.dry_run import plan_lines

        for line in plan_lines(out_dir, config, **how):
            print(line)
        return
    from subspace_lab.studies.safety import run as start

    study = start(out_dir, config, retry=retry, keep_weights=keep_weights, **how)
    _tell(study)
    _fail(unless=bool((study.results["status"] == "complete").any()))


@safety.command(name="list")
def list_(kind: Listed | None = None, /) -> None:
    """List what a study can be put together from; nothing heavy is imported.

    Parameters
    ----------
    kind
        defenses, policies, tasks, threats, judges or profiles; all by default.
    """
    from subspace_lab.studies.safety import DEFENSES, JUDGES, POLICIES, TASKS, THREATS

    kinds: dict[str, Registry[Any]] = {
        "defenses": DEFENSES, "policies": POLICIES, "tasks": TASKS, "threats": THREATS, "judges": JUDGES,
    }  # fmt: skip
    for name in [kind] if kind else [*kinds, "profiles"]:
        if name == "profiles":
            show(_profiles())
        else:
            show(_table(name, kinds[name]))


@safety.command
def report(
    out_dir: OutDir, /, *, page: File | None = None, pictures: File | None = None, publish: File | None = None
) -> None:
    """Make tables, figures and report again, from the cells; trains nothing and imports no plug-in.

    Parameters
    ----------
    out_dir
        Where the study is.
    page
        Write the page that says claim by claim what came out there instead, from the tables alone.
    pictures
        Where the figures of the page go; OUT_DIR/figures by default.
    publish
        Copy the tables into this directory instead, without cells and weights; --page makes a page of them.
    """
    from subspace_lab.studies.safety import Study

    _check_pictures(page, pictures)
    study = Study.open(out_dir)
    if page is None and publish is None:
        print(f"report: {study.draw()}")
    if publish is not None:
        study = Study.open(study.publish(publish))
        print(f"tables: {study.path}")
    if page is not None:
        print(f"page: {study.page(page, pictures)}")


@safety.command
def verify(out_dir: OutDir, /) -> None:
    """Compute every hash again: splits, weights, outcomes, and tables against cells; a line per difference.

    Parameters
    ----------
    out_dir
        Where the study is.
    """
    from subspace_lab.studies.safety import Study

    found = Study.open(out_dir).verify()
    for line in found:
        print(line)
    _fail(unless=not found)
    print("no differences")


@safety.command
def audit(
    file: Annotated[Path, Parameter(name="FILE")],
    /,
    *,
    schema: Literal["beavertails", "advbench", "messages", "alpaca"],
) -> None:
    """Say what is in a file of rows, without any of its text.

    Parameters
    ----------
    file
        A csv, tsv, jsonl, json or parquet file.
    schema
        Which columns it has.
    """
    from subspace_lab.studies.safety.audit import audit as look

    for line in look(file, schema=schema).lines():
        print(line)


def _check_pictures(page: Path | None, pictures: Path | None) -> None:
    if pictures is not None and page is None:
        raise ValueError("--pictures is where the figures of a page go; give --page as well")


def _fail(*, unless: bool) -> None:
    if not unless:
        raise SystemExit(1)


def _config(profile: str | None, given: dict[str, Any]) -> StudyConfig:
    from subspace_lab.studies.safety import StudyConfig
    from subspace_lab.studies.safety.profiles import profile as profile_named

    start = StudyConfig() if profile is None else profile_named(profile)
    changes: dict[str, Any] = {name: tuple(split(value)) if name in _LISTS else value
               for name, value in given.items() if value is not None}  # fmt: skip
    if any(name in changes for name in _AXES):
        changes["further"] = ()  # what was asked for is one grid
    return dataclasses.replace(start, **changes)


def _tell(study: Study) -> None:
    """The headline by the judge that the report shows."""
    from rich.table import Table

    from subspace_lab.studies.safety.page import UNGUARDED, UNSUPPORTED

    table = Table(box=None)
    shown = {
        "task": "task", "threat": "threat", "regime": "regime", "defense": "defense", "judge": "judge", "lr": "lr",
        "asr": "attack success", "gap": "gap to none", "over_refusal": "over-refusal", "utility": "utility",
    }  # fmt: skip
    for heading in shown.values():
        table.add_column(heading)
    for row in study.tables.headline.to_dict("records"):
        if not row["guarded"]:
            row["asr"] = UNGUARDED if row["seeds"] else UNSUPPORTED if row["unsupported"] else ""
        table.add_row(*(_word(row[name]) for name in shown))
    show(table)
    print(f"\ntables: {study.path / 'results.parquet'}, table.csv, table.tex\nreport: {study.path / 'report.html'}")


def _word(value: Any) -> str:
    if isinstance(value, float):
        return "" if value != value else f"{value:.3g}"
    return str(value)


def _table(kind: str, registry: Registry[Any]) -> Table:
    from rich.table import Table

    table = Table(title=kind, title_justify="left", box=None)
    is_defense = kind == "defenses"
    for heading in ("name", *(("stage", "needs", "cost", "arXiv") if is_defense else ()), "defaults", "what"):
        table.add_column(heading, no_wrap=heading in {"name", "arXiv"})
    for name, cls in registry.items():
        more = (cls.stage, ", ".join(sorted(cls.needs)), cls.cost, cls.arxiv) if is_defense else ()
        table.add_row(name, *more, _defaults(cls), (cls.__doc__ or "").strip().splitlines()[0])
    return table


def _defaults(cls: Any) -> str:
    fields = [one for one in dataclasses.fields(cls) if one.init]
    return ", ".join(one.name if one.default is dataclasses.MISSING else f"{one.name}={one.default}" for one in fields)


def _profiles() -> Table:
    from rich.table import Table

    from subspace_lab.studies.safety.profiles import PROFILES

    table = Table(title="profiles", title_justify="left", box=None)
    for heading in ("name", "policy", "tasks", "threats", "regimes", "defenses", "seeds", "steps"):
        table.add_column(heading, overflow="fold")
    for name, config in PROFILES.items():
        axes = [sorted({one for grid in config.grids for one in getattr(grid, axis)}) for axis in _AXES]
        table.add_row(
            name, config.policy, *(", ".join(axis) if len(axis) < 9 else f"{len(axis)} of them" for axis in axes),
            str(config.seeds), str(config.steps),
        )  # fmt: skip
    return table
