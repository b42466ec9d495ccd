"""The table of methods against numbers worked out by hand and by numpy."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from subspace_lab.experiments.present import latex_table, legend, rows_of, verdicts
from subspace_lab.experiments.statistics import best_rows, best_setting, pareto_front, summary
from subspace_lab.training.tasks.base import Metric

A = {0.001: [4.0, 4.2, 4.4], 0.003: [3.0, 3.3, 3.6], 0.01: [3.5, 3.5, 3.5]}
B = {0.001: [3.9, 4.0, 4.1], 0.003: [3.2, 3.4, 3.7], 0.01: [math.nan, 2.0, 2.0]}  # one diverged
C = {0.001: [3.1, 3.3, 3.65]}


def results(**methods):
    rows = [
        {
            "cell": f"{method}_lr{lr:g}_seed{seed}", "method": method, "lr": lr, "seed": seed,
            "status": "diverged" if math.isnan(loss) else "complete", "reason": "", "eval_loss": loss,
            "train_loss": loss - 0.1, "state_bytes": 1000, "state_bytes_formula": 1000, "peak_bytes": 10_000 + seed,
            "base_bytes": 421_400_000, "step_s": 0.1 * (seed + 1), "refresh_share": 0.25, "tokens": 500, "wall_s": 9.0,
        }
        for method, grid in methods.items() for lr, losses in grid.items() for seed, loss in enumerate(losses)
    ]  # fmt: skip
    counts = ("state_bytes", "state_bytes_formula", "peak_bytes", "base_bytes")
    return pd.DataFrame(rows).astype(dict.fromkeys(counts, "Int64"))


def test_each_method_is_shown_at_its_best_learning_rate():
    table = summary(results(a=A, b=B, c=C)).set_index("method")
    assert list(table.index) == ["a", "c", "b"]  # by loss
    assert table["lr"].to_dict() == {"a": 0.003, "b": 0.003, "c": 0.001}  # not b at 0.01, where a seed diverged
    assert table["edge"].to_dict() == {"a": "", "b": "", "c": "only"}
    assert table["failed"].to_dict() == {"a": 0, "b": 1, "c": 0}
    assert table["lrs"].to_dict() == {"a": 3, "b": 3, "c": 1}
    assert table.loc["a", "eval_loss"] == pytest.approx(3.3)
    assert table.loc["a", "eval_sd"] == pytest.approx(0.3)
    half = 4.302652729911275 * 0.3 / math.sqrt(3)  # Student's t at 97.5 %, two degrees of freedom
    assert table.loc["a", ["eval_low", "eval_high"]].tolist() == pytest.approx([3.3 - half, 3.3 + half])
    assert table.loc["a", "train_loss"] == pytest.approx(3.2)
    assert table.loc["a", ["peak_bytes", "step_s"]].tolist() == pytest.approx([10_001, 0.2])


def test_gaps_are_paired_by_seed():
    table = summary(results(a=A, b=B, c=C)).set_index("method")
    assert table.loc["a", "gap"] == 0
    for method, losses in (("b", B[0.003]), ("c", C[0.001])):  # no p value is below 0.025
        test = stats.ttest_rel(losses, A[0.003]).confidence_interval(0.975)
        assert table.loc[method, "gap"] == pytest.approx(np.mean(np.subtract(losses, A[0.003])))
        assert table.loc[method, ["gap_low", "gap_high"]].tolist() == pytest.approx([test.low, test.high])


def test_noise_is_not_told_apart_and_what_failed_is_named():
    cells = results(a=A, b={0.003: [3.2, 3.5, 3.8]}, c={0.001: [2.9, 3.3, 3.8]}, d={0.01: [math.nan] * 3})
    lines = verdicts(summary(cells), cells)
    assert lines[0] == "not distinguishable from a (95 %, paired by seed, Holm): c"  # b is 0.2 worse with every seed
    assert lines[-3:] == [f"diverged: d_lr0.01_seed{seed}" for seed in range(3)]
    assert "--retry" in lines[-4]


@pytest.mark.parametrize(("losses", "edge"), [([1, 2, 3], "low"), ([2, 1, 3], ""), ([3, 2, 1], "high")])
def test_a_learning_rate_at_the_end_of_its_grid_is_marked(losses, edge):
    table = summary(results(a={lr: [loss] for lr, loss in zip((0.1, 0.2, 0.3), losses, strict=True)}))
    assert table["edge"].tolist() == [edge]
    assert "edge_rest" not in table
    assert rows_of(table)["lr"][0].endswith("*") == bool(edge)
    assert rows_of(table)["tokens [k]"][0] == "0.5"  # 500, not none
    assert ("end of its grid" in latex_table(table)) == bool(edge)


@pytest.mark.parametrize(("best", "edge", "edge_rest"), [(0, "low", "high"), (1, "", "low"), (2, "high", "")])
def test_each_rate_has_an_edge_of_its_own(best, edge, edge_rest):
    table = results(a={lr: [4.0 - (place == best)] for place, lr in enumerate((0.1, 0.2, 0.3))})
    row = summary(table.assign(lr_rest=[0.9, 0.5, 0.7])).iloc[0]
    assert (row["edge"], row["edge_rest"]) == (edge, edge_rest)
    shown = summary(table.assign(lr_rest=[0.9, 0.5, 0.7]))
    assert rows_of(shown)["lr"][0].endswith("*") == (edge != "" or edge_rest != "")
    assert ("end of its grid" in latex_table(shown)) == (edge != "" or edge_rest != "")


@pytest.mark.parametrize("edge_rest", ["", "only", "low"])
def test_a_rate_of_the_rest_at_an_end_is_marked_and_a_single_one_is_not(edge_rest):
    """A single one was said or inherited, so that nothing was searched."""
    table = summary(results(a=A)).assign(lr_rest=0.5, edge="", edge_rest=edge_rest)
    assert rows_of(table)["lr"][0] == ("0.003/0.5*" if edge_rest == "low" else "0.003/0.5")
    assert ("end of its grid" in latex_table(table)) == (edge_rest == "low")


def test_tuned_on_few_seeds_and_measured_on_more():
    """The seeds that only one learning rate has do not speak in the choice, but in the result."""
    cells = results(a={0.1: [2.0], 0.2: [1.9, 9.0, 9.0], 0.3: [2.1]})
    table = summary(cells)
    assert table.loc[0, ["lr", "seeds", "eval_loss"]].tolist() == pytest.approx([0.2, 3, (1.9 + 18) / 3])


def test_one_seed_has_no_spread():
    table = summary(results(a={0.1: [2.0]}, b={0.1: [3.0]}))
    assert table[["eval_sd", "eval_low", "gap_low"]].isna().all(axis=None)
    assert rows_of(table)["held-out"].tolist() == ["2.000", "3.000"]
    assert "too few seeds to distinguish all methods" in verdicts(table, results(a={0.1: [2.0]}, b={0.1: [3.0]}))


def test_a_method_of_which_nothing_came_to_an_end_stays_in_the_table():
    table = summary(results(a={0.1: [math.nan], 0.2: [math.nan]}, b={0.1: [3.0], 0.2: [4.0]}))
    assert table["method"].tolist() == ["b", "a"]
    assert rows_of(table).loc[1, "held-out"] == "-"
    assert rows_of(table).loc[1, "lr"] == "-"  # none is the best


def test_where_every_learning_rate_failed_somewhere_the_one_that_failed_least_is_taken():
    nan = math.nan
    cells = results(a={0.1: [1.0, nan, nan], 0.2: [5.0, 5.0, nan]})
    assert best_setting(cells) == {"lr": 0.2}


def test_latex_is_escaped_and_says_what_it_shows():
    text = latex_table(summary(results(**{"a_b:rank=3": A, "c": C})))
    assert r"a\_b:rank=3 & 0.003 & 3.300 $\pm$ 0.300 &" in text
    assert text.startswith("% held-out: loss at each method's best learning rate, mean ± sd over 3 seeds\n")
    assert text.count(r"\\") == 3


def test_memory_stands_beside_its_formula():
    cells = results(a=A, c=C)
    table = summary(cells)
    assert rows_of(table).columns.tolist()[3:6] == ["state [MB]", "formula [MB]", "peak [MB]"]
    assert "state: the optimizer's tensors, equal to the formula to the byte" in legend(table)
    assert "peak: of the process, 421 MB of Python and libraries in it" in legend(table)
    cells.loc[cells["method"] == "c", "state_bytes"] += 4
    assert "state: the optimizer's tensors; those of 1 method differ from the formula" in legend(summary(cells))
    assert max(map(len, legend(summary(cells)))) <= 80
    on_gpu = legend(summary(cells.assign(base_bytes=0, state_bytes_formula=math.nan)))
    assert "state: the optimizer's tensors" in on_gpu
    assert "peak: of the GPU's allocator; weights, gradients and activations are in it" in on_gpu
    assert "peak: of the process, libraries included" in legend(table.drop(columns="base_bytes"))


def test_spreads_of_the_training_loss_and_counts_of_what_failed_by_hand():
    cells = results(a={0.1: [2.0, 2.2, 2.7], 0.2: [4.0, 4.0, 4.0]})
    cells["train_loss"] = [1.0, 2.0, 4.0, 9.0, 9.0, 9.0]
    cells.loc[3:5, "status"] = ["killed", "failed", "diverged"]
    table = summary(cells)
    assert table.loc[0, ["train_loss", "train_sd"]].tolist() == pytest.approx([7 / 3, (7 / 3) ** 0.5])
    assert table.loc[0, "failed"] == 3


@pytest.mark.parametrize("status", ["pending", "cut"])
def test_what_was_not_begun_does_not_speak_in_the_choice_of_the_learning_rate(status):
    """Taken for failures, or for seeds that the others have to share, they would turn it."""
    cells = results(a={0.1: [3.0, 9.0], 0.2: [1.0, 2.0]})
    cells.loc[(cells["lr"] == 0.2) & (cells["seed"] == 0), "status"] = status
    assert best_setting(cells) == {"lr": 0.2}


def test_a_trial_of_a_changed_default_takes_the_place_of_the_old_one():
    """Both have the same factors; their mean would be of neither, and pairs by seed would not be pairs."""
    new = results(a={0.001: [3.0, 3.2]}, b={0.001: [3.1, 3.5]})
    both = pd.concat([results(a={0.001: [9.0, 9.5]}), new], ignore_index=True)
    pd.testing.assert_frame_equal(summary(both), summary(new))
    assert best_rows(both)["eval_loss"].tolist() == best_rows(new)["eval_loss"].tolist() == [3.0, 3.2, 3.1, 3.5]
    captured = pd.concat([new.assign(captured=False), new.assign(captured=True)], ignore_index=True)
    assert len(best_rows(captured)) == 4


def test_what_was_not_measured_has_no_column():
    table = summary(results(a={0.001: [3, 3.1]}).drop(columns=["state_bytes_formula", "tokens"]))
    assert not {"state_bytes_formula", "tokens"} & {*table}
    assert table["eval_loss"].tolist() == [3.05]


def test_a_metric_of_which_higher_is_better():
    accuracy = Metric("accuracy", "higher")
    cells = results(a={0.1: [0.5, 0.6], 0.2: [0.7, 0.9]}, b={0.1: [0.9, 0.9], 0.2: [0.1, 0.1]})
    cells = cells.rename(columns={"eval_loss": "accuracy"})
    table = summary(cells, accuracy).set_index("method")
    assert table["lr"].to_dict() == {"b": 0.1, "a": 0.2}
    assert table.index[0] == "b", "the highest comes first"
    assert table.loc["a", "gap"] == pytest.approx(-0.1)
    assert best_setting(cells[cells["method"] == "a"], accuracy) == {"lr": 0.2}


def test_several_settings_are_chosen_together():
    """The best pair, and not the best rate with the best of the others: of equally good ones the lowest."""
    cells = results(a={0.1: [1.0, 2.0], 0.2: [3.0, 0.5]}).assign(warmup=[10, 20, 10, 20]).assign(seed=0)
    assert best_setting(cells) == {"lr": 0.2, "warmup": 20}
    cells["eval_loss"] = 1.0
    assert best_setting(cells) == {"lr": 0.1, "warmup": 10}
    assert best_setting(cells, names=("warmup",)) == {"warmup": 10}


def test_rows_at_the_best_setting_are_complete_and_were_not_captured():
    cells = results(a=A, b=B, c=C).assign(captured=False)
    cells.loc[(cells["method"] == "a") & (cells["lr"] == 0.01), "captured"] = True
    cells.loc[cells["captured"], "eval_loss"] = 0.0
    cells.loc[(cells["method"] == "a") & (cells["lr"] == 0.003) & (cells["seed"] == 1), "status"] = "killed"
    rows = best_rows(cells)
    assert rows[["method", "lr", "seed", "edge"]].to_numpy().tolist() == [
        ["a", 0.001, 0, "low"], ["a", 0.001, 1, "low"], ["a", 0.001, 2, "low"],
        *(["b", 0.003, seed, ""] for seed in range(3)), *(["c", 0.001, seed, "only"] for seed in range(3)),
    ]  # fmt: skip
    assert set(best_rows(cells, ["c"])["method"]) == {"c"}
    assert best_rows(cells.iloc[:0]).empty


def test_trials_of_the_tuning_choose_the_setting_and_do_not_count():
    """The tuning seed would pull the means; of two settings that tuned alike, the one that was evaluated counts."""
    tuned = results(a={0.1: [9.0], 0.2: [9.0]}).assign(seed=1000, phase="tune")
    evaluated = results(a={0.2: [2.0, 4.0]}).assign(phase="evaluate")
    cells = pd.concat([tuned, evaluated], ignore_index=True)
    assert summary(cells).loc[0, ["lr", "seeds", "eval_loss", "edge"]].tolist() == [0.2, 2, 3.0, "high"]
    rows = best_rows(cells)
    assert rows[["lr", "seed", "eval_loss", "edge"]].to_numpy().tolist() == [
        [0.2, 0, 2.0, "high"],
        [0.2, 1, 4.0, "high"],
    ]
    waiting = summary(tuned)  # nothing is evaluated yet
    assert waiting.loc[0, "seeds"] == 0
    assert waiting["eval_loss"].isna().all()


def test_the_front_is_what_nobody_beats():
    draw = np.random.default_rng(1)
    for _ in range(50):
        table = pd.DataFrame({"state_bytes": draw.integers(1, 8, 9), "eval_loss": draw.integers(1, 8, 9)})
        points = set(zip(table["state_bytes"], table["eval_loss"], strict=True))
        expected = {(s, e) for s, e in points if not any((a <= s and b <= e) and (a, b) != (s, e) for a, b in points)}
        front = pareto_front(table, "state_bytes")
        assert set(zip(front["state_bytes"], front["eval_loss"], strict=True)) == expected


def test_a_few_bytes_of_state_are_no_advantage():
    """GaLore has one number less per matrix than a method with recovery, which is better here."""
    table = pd.DataFrame({"state_bytes": [2_890_000, 2_890_112, 7_250_000], "eval_loss": [5.9, 5.7, 5.6]})
    front = pareto_front(table, "state_bytes")
    assert front["eval_loss"].tolist() == [5.7, 5.6]
