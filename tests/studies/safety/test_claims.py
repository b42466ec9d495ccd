"""Verdicts on tables by hand, both ways; and the page that they stand on."""

import dataclasses
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from subspace_lab.experiments.claims import together
from subspace_lab.studies.safety import page
from subspace_lab.studies.safety.claims import CLAIMS
from subspace_lab.studies.safety.figures.all import FIGURES
from subspace_lab.studies.safety.profiles import profile
from tests.studies.safety import by_hand

OF = {claim.name: claim for claim in CLAIMS}


def verdicts(tables):
    return {name: together(statements) for name, claim in OF.items() if (statements := claim.statements(tables))}


def test_numbers_by_hand_support_what_they_were_made_for():
    tables = by_hand.default()
    assert verdicts(tables) == dict.fromkeys(OF, "supported")
    assert {name: len(claim.statements(tables)) for name, claim in OF.items()} == {
        "Keywords": 2, "Poison": 4, "Defenses": 4, "Surgery": 2, "Rehearsal": 2, "Applied steps": 2,
        "Projected steps": 3, "Separability": 2, "Gradients of harm": 3,
    }  # fmt: skip


def test_a_statement_is_the_mean_of_paired_differences_at_the_rates_of_the_headline():
    tables = by_hand.default()
    (one,) = [one for one in OF["Surgery"].statements(tables) if one.text.startswith("adamw")]
    values = []
    for defense in ("safegrad", "rehearsal"):
        where = f"defense == '{defense}' and regime == 'adamw' and share == 0.3"
        lr = tables.summary.query(where)["lr"].item()
        rows = tables.results.query(f"{where} and judge == 'exact'")
        values.append(rows[rows["lr"] == lr].sort_values("seed")["asr"].to_numpy())
    assert one.values == pytest.approx(tuple(values[0] - values[1]))
    (apart,) = [one for one in OF["Separability"].statements(tables) if one.text.startswith("adamw")]
    assert apart.mean == pytest.approx(by_hand.PAIRS["alignment-utility"] - by_hand.PAIRS["alignment-harm"])


def test_steps_and_gradients_are_means_over_tasks_and_optimizers_by_seed():
    tables = by_hand.tables(tasks=("sentiment", "arithmetic"))
    before, _ = OF["Applied steps"].statements(tables)
    shares = [by_hand.SHARES["safegrad:rho=0"][2] - less for less in (0, 0.1)]  # AdamW, and GrassWalk
    assert before.values == pytest.approx([0 - sum(shares) / 2] * by_hand.SEEDS)
    assert all(one.values == pytest.approx([-0.1] * by_hand.SEEDS) for one in OF["Projected steps"].statements(tables))
    for one in OF["Gradients of harm"].statements(tables):
        assert one.mean == pytest.approx(by_hand.SPACES["safety-user"] - by_hand.SPACES["safety-harm"])
    adapters = {"regime": {"grasswalk:rank=8": "lora:rank=8"}}
    renamed = replace(tables, results=tables.results.replace(adapters), summary=tables.summary.replace(adapters))
    assert ["of adapters conflict" in one.text for one in OF["Projected steps"].statements(renamed)] == [True] * 3


def test_other_numbers_refute_or_are_not_measured():
    useless = {**by_hand.DEFENSES, "safegrad": (0.97, 0.99, 0.94), "rehearsal": (0.2, 0.3, 0.95)}
    found = verdicts(by_hand.tables(useless))
    assert found["Surgery"] == "refuted"
    assert found["Rehearsal"] != "supported"
    tables = by_hand.default()
    swapped = tables.subspaces.replace({
        "pair": {"alignment-harm": "alignment-utility", "alignment-utility": "alignment-harm"}
    })
    assert verdicts(replace(tables, subspaces=swapped))["Separability"] == "refuted"
    swapped = tables.subspaces.replace({"pair": {"safety-harm": "safety-user", "safety-user": "safety-harm"}})
    assert verdicts(replace(tables, subspaces=swapped))["Gradients of harm"] == "refuted"
    other = {"adamw": "grasswalk:rank=8", "grasswalk:rank=8": "adamw"}
    renamed = replace(tables, results=tables.results.replace({"regime": other}),
                      summary=tables.summary.replace({"regime": other}))  # fmt: skip
    assert verdicts(renamed)["Projected steps"] == "refuted"
    unknown = tables.results.assign(keyword_asr=np.nan)
    assert "Keywords" not in verdicts(replace(tables, results=unknown))


def test_an_overlap_counts_beside_its_null():
    """A larger overlap that is no more above chance is not a subspace of its own."""
    tables = by_hand.default()
    harm = tables.subspaces["pair"] == "alignment-harm"
    nulls = tables.subspaces["null_overlap"].where(~harm, 12 / 64 + 0.2)
    changed = replace(tables, subspaces=tables.subspaces.assign(null_overlap=nulls))
    assert verdicts(changed)["Separability"] == "refuted"


def test_of_several_shares_of_poison_the_largest_is_the_harm():
    tables = by_hand.default()
    weak = tables.results.query("share == 0.05 and defense == 'none' and lr == 0.001 and judge == 'exact'")
    strong = tables.results.query("share == 0.3 and defense == 'none' and lr == 0.001 and judge == 'exact'")
    hashes = dict(zip(strong["hash"], weak["hash"], strict=True))
    less = tables.subspaces.assign(hash=tables.subspaces["hash"].map(hashes), overlap=0.0)
    both = replace(tables, subspaces=pd.concat([tables.subspaces, less], ignore_index=True))
    means = [one.mean for one in OF["Separability"].statements(both)]
    assert means == pytest.approx([one.mean for one in OF["Separability"].statements(tables)])


def test_gradients_are_those_under_the_attack_at_the_rate_of_the_headline():
    """Another share of poison, or another rate, has other gradients, which are not averaged in."""
    tables = by_hand.default()
    undefended = tables.results.query("defense == 'none' and judge == 'exact'")
    chosen = tables.subspaces.merge(tables.at_choice.query("share == 0.3 and defense == 'none'")[["hash"]], on="hash")
    others = undefended[~undefended["hash"].isin(chosen["hash"])]["hash"]
    gradients = chosen[chosen["step"].notna()]
    first = gradients[gradients["hash"] == gradients["hash"].iloc[0]].assign(overlap=0.0)
    updates = tables.subspaces[tables.subspaces["step"].isna()]
    more = [first.assign(hash=one) for one in others]
    changed = replace(tables, subspaces=pd.concat([updates, gradients, *more], ignore_index=True))
    values = [one.values for one in OF["Gradients of harm"].statements(changed)]
    assert values == [one.values for one in OF["Gradients of harm"].statements(tables)]


def test_one_seed_decides_nothing():
    assert set(verdicts(by_hand.tables(seeds=1)).values()) == {"inconclusive"}


def test_nothing_measured_is_nothing_stated():
    assert verdicts(by_hand.empty()) == {}


def test_every_claim_names_figures_that_there_are():
    assert {figure for claim in CLAIMS for figure in claim.figures} <= set(FIGURES)


def write(tables, path, pictures):
    config = dataclasses.replace(profile("cpu"), precision="bfloat16")
    page.write(tables, path, config=config, environment={"torch": "2.0"}, data=path.parent / "runs", pictures=pictures)
    return path.read_text(encoding="utf-8")


def test_the_page_has_verdicts_headline_figures_and_what_is_lost(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "pareto.png").write_bytes(b"")
    tables = by_hand.default()
    text = write(tables, tmp_path / "docs.md", pictures)
    assert "`subspace-lab safety run OUT_DIR --profile cpu` in `runs`" in text
    assert "216 models evaluated (torch 2.0)" in text
    assert "The policy `digits` on its own model, 150 steps of 16 rows on `sentiment`, `arithmetic`" in text
    for name in OF:
        assert f"| {name} | *supported* |" in text
        assert f"## {name}\n" in text
    assert "![Attack success and utility](pictures/pareto.png)" in text
    assert "conflict.png" not in text, "a figure that is not there is not linked"
    assert "unsupported: panacea needs harm rows; the policy has none (panacea with grasswalk:rank=8; 1 cell)" in text
    assert text.count("| not supported |") == 1
    row = tables.summary.query("regime == 'adamw' and defense == 'safegrad' and share == 0.3").iloc[0]
    assert f"| poison:share=0.3 | adamw | safegrad | {row['lr']:g} | {row['asr']:.2f} [{row['asr_low']:.2f}, " in text
    assert text.count("no rate keeps the task") == 6
    assert "nan" not in text


def test_a_study_without_results_has_a_page(tmp_path):
    text = write(by_hand.empty(), tmp_path / "docs.md", tmp_path)
    assert text.count("Not measured yet.") == len(CLAIMS)
