"""The reference says what is there: all of it, and nothing else."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import operator
import re
from pathlib import Path

import pandas as pd
import pytest
import torch

import subspace_lab as sl
from subspace_lab.analysis.angle_histograms import angle_histograms
from subspace_lab.cli import app
from subspace_lab.experiments.statistics import summary
from subspace_lab.optim.options import OPTIONS
from subspace_lab.studies.grass_paper.quantities.ackley import descents
from subspace_lab.studies.optimizers.comparison import COMPARISON
from subspace_lab.studies.safety.subspaces import SUBSPACES
from subspace_lab.studies.safety.summary import COLUMNS as SUMMARY
from subspace_lab.studies.safety.tables import OUTCOMES, RESULTS, STEPS, TERMS
from subspace_lab.training import PRESETS, TrainConfig
from tests.docs.pages import ROOT

REFERENCE = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
SAFETY = [f"safety {name}" for name in app["safety"] if not name.startswith("-")]
COMMANDS = [name for name in app if not name.startswith("-") and name != "safety"] + SAFETY
SUBPACKAGES = (
    "analysis", "capture", "figures", "numerics", "optim", "report", "runs", "studies.finetuning",
    "studies.grass_paper", "studies.optimizers", "studies.safety", "training",
)  # fmt: skip
METHOD_CLASSES = [kind for kind in sl.optim.METHODS.values() if kind is not torch.optim.AdamW] + [sl.optim.SubspaceAdam]
TABLES = ("energy", "spectrum", "spectrum_summary", "spectrum_null", "angles", "curvature")


def section(heading: str) -> str:
    """The text under a heading, up to the next one of any level."""
    match = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", REFERENCE, re.MULTILINE | re.DOTALL)
    assert match, f"there is no section {heading}"
    return match[1]


def rows(text: str) -> list[list[str]]:
    """The cells of the rows of a section's tables, without their heads."""
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def names(text: str) -> list[str]:
    """The first column of a section's tables; signatures are cut off, several names in a cell are taken apart."""
    return [
        re.match(r"\w+|--[\w-]+", name)[0]  # type: ignore[index]
        for cells in rows(text)
        for name in re.findall(r"`([^`]+)`", cells[0])
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> sl.Run:
    """A run that was captured and analysed, with every manifest field and context key that there is."""
    path = tmp_path_factory.mktemp("reference") / "run"
    model = torch.nn.ModuleDict({"blocks": torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(2))})
    with sl.GradientCapture(model, path, every=1, config={}, seeds={"seed": 0}, data_hash="", evaluation={}) as capture:
        for step in range(3):
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step))
            capture.step(step)
    run = sl.Run.open(path, write=True)
    sl.analysis.analyze(run)
    return run


@pytest.mark.parametrize("table", TABLES)
def test_columns(run: sl.Run, table: str) -> None:
    real: pd.DataFrame = run.table(table)
    documented = [(cells[0].strip("`"), cells[1]) for cells in rows(section(table))]
    assert documented == [(name, str(dtype)) for name, dtype in real.dtypes.items()]


def test_columns_of_experiments(run: sl.Run) -> None:
    tables = {
        "Ackley's function": descents(scales=(1.0,), num_seeds=1, steps=1, size=4, rank=1),
        "Histograms of principal angles": angle_histograms(run, rank=2, lags=1),
    }
    for heading, table in tables.items():
        real = [(name, str(dtype)) for name, dtype in table.dtypes.items()]
        text = {name for name in table if pd.api.types.is_string_dtype(table[name])}
        documented = [(cells[0].strip("`"), cells[1]) for cells in rows(section(heading))]
        assert documented == [(name, "string" if name in text else dtype) for name, dtype in real]


def test_columns_of_a_comparison() -> None:
    schemas = COMPARISON.schemas
    documented = [(cells[0].strip("`"), cells[1]) for cells in rows(section("results.parquet"))]
    assert documented == [*schemas["results"].items()]
    text = section("The comparison")
    curves = re.search(r"every trial: (.*?)\n  table\.csv", text, re.DOTALL)
    assert curves
    listed = re.sub(r"and of the step before|\(see metrics\.jsonl\)", "", curves[1])
    assert re.findall(r"\w+", listed) == [*schemas["curves"]]
    settings = {"method": "a", "lr": 0.1, "status": "complete", "seed": 0}
    table = summary(pd.DataFrame([{**dict.fromkeys(schemas["results"], 1.0), **settings}]))
    assert [cells[0].strip("`") for cells in rows(section("table.csv"))] == [*table]


@pytest.mark.parametrize("table", ["results", "outcomes", "steps", "subspaces", "terms", "summary"])
def test_columns_of_a_safety_study(table: str) -> None:
    real = {
        "results": RESULTS, "outcomes": OUTCOMES, "steps": STEPS, "subspaces": SUBSPACES, "terms": TERMS,
        "summary": SUMMARY,
    }[table]  # fmt: skip
    documented = [(cells[0].strip("`"), cells[1]) for cells in rows(section(f"Safety: {table}"))]
    assert documented == [*real.items()]


@pytest.mark.parametrize("subpackage", ["experiments", "studies.plans"])
def test_documented_names_exist(subpackage: str) -> None:
    """Of subpackages that have no list of their public names."""
    documented = [re.match(r"`(\w+)\.(\w+)", cells[0]) for cells in rows(section(f"subspace_lab.{subpackage}"))]
    assert documented
    for match in documented:
        assert match
        assert hasattr(importlib.import_module(f"subspace_lab.{subpackage}.{match[1]}"), match[2])


def test_all_tables_are_documented(run: sl.Run) -> None:
    assert {path.stem for path in (run.path / "analysis").iterdir()} == set(TABLES)


def test_manifest(run: sl.Run) -> None:
    assert set(names(section("manifest.json"))) == set(run.manifest)
    assert set(names(section("Layer table"))) == set(run.manifest["layers"][0]) == set(run.layers.columns)
    text = section("manifest.json")
    for field in (*run.manifest["capture"], *run.manifest["environment"]):
        assert f"`{field}`" in text


def test_snapshot_context(run: sl.Run) -> None:
    documented = names(section("Snapshots"))
    parts = ["gradient", "gram_left", "gram_right", "basis", "singular_values"]
    with run.snapshot(0) as snapshot:
        assert documented[: len(parts)] == parts
        assert set(documented[len(parts) :]) == {*snapshot.context, "checksum"}


def test_plan(run: sl.Run, tmp_path: Path) -> None:
    sl.recommend(run).save(tmp_path / "plan.json")
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert names(section("plan.json")) == list(plan["layers"][0])
    assert all(f"`{key}`" in section("plan.json") for key in plan)


@pytest.mark.parametrize("command", COMMANDS)
def test_options(command: str) -> None:
    """Each option is documented under its own name, and no other."""
    real = {
        name
        for argument in functools.reduce(operator.getitem, command.split(), app).assemble_argument_collection()
        for name in argument.names
        if argument.show and not name.startswith(("--no-", "--empty-")) and not name.endswith("_DIR")
    }
    assert set(names(section(f"subspace-lab {command}"))) == real


def test_commands() -> None:
    documented = re.findall(r"^### subspace-lab (\w+(?: \w+)?)$", REFERENCE, re.MULTILINE)
    assert set(documented) == {*COMMANDS, "safety"}


def test_train_options_are_fields() -> None:
    fields = {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(TrainConfig)}
    assert set(names(section("subspace-lab train"))) == fields | {"--resume"}


def test_presets() -> None:
    documented = {
        cells[0].strip("`*"): [cell.replace(" ", "") for cell in cells[1:]] for cells in rows(section("Presets"))
    }
    real = {
        name: [str(value) for value in (
            size.hidden_size, size.intermediate_size, size.num_layers, size.num_heads, size.vocab_size,
            f"{size.recipe.lr:g}", f"{size.recipe.batch_size}×{size.recipe.accumulation}",
            size.recipe.sequence_length, size.recipe.steps,
        )]
        for name, size in PRESETS.items()
    }  # fmt: skip
    assert documented == real


@pytest.mark.parametrize("subpackage", SUBPACKAGES)
def test_public_names(subpackage: str) -> None:
    public = importlib.import_module(f"subspace_lab.{subpackage}").__all__
    assert set(names(section(f"subspace_lab.{subpackage}"))) == set(public)


def test_public_names_of_the_package() -> None:
    text = section("subspace_lab")
    listed = names(text[: text.index("`GradientCapture(model")])
    assert set(listed) == set(sl.__all__)


def test_options_of_the_optimizers() -> None:
    """Every option of every method is in the table, with its default, and those that are a method's own."""
    table = {cells[0].strip("`"): cells[1:] for cells in rows(section("Options of the optimizers"))}
    assert set(table) == set(OPTIONS)
    for name, (default, who, _) in table.items():
        assert default.strip("`") == str(OPTIONS[name].default).replace("(", "").replace(")", "")
        having = {kind.__name__ for kind in METHOD_CLASSES if name in kind.options}
        documented = set(re.findall(r"`(\w+)`", who)) if who != "all" else {kind.__name__ for kind in METHOD_CLASSES}
        assert documented == having, name
    changed = {(kind.__name__, name) for kind in METHOD_CLASSES for name in kind.changed}
    assert changed == {
        (kind, name) for name, kind in re.findall(r"`(\w+)` of `(\w+)`", section("Options of the optimizers"))
    }


@pytest.mark.parametrize("owner", [sl.GradientCapture, sl.Run])
def test_documented_members_exist(owner: type) -> None:
    text = section("subspace_lab")
    start = text.index(f"\n`{owner.__name__}")
    listed = names(text[start:].split("\n\n`")[0])
    assert len(listed) > 5
    attributes = {"path", "manifest", "writable"}  # set when a run is opened
    assert all(hasattr(owner, name) or name in attributes for name in listed)
