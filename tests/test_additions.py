"""What a maintainer touches to add something, shown on a copy of the package by adding it and using it.

The places are files of the package. Tests and pages ask for their lines themselves: they fail without them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
import torch

import subspace_lab
from tests.runs_by_hand import write_run
from tests.training.tiny import write_text

PACKAGE = Path(subspace_lab.__file__).parent
ROOT = Path(__file__).parents[1]


class Copy:
    """A copy of the package, and which of its files were written or edited."""

    def __init__(self, path: Path) -> None:
        self.path, self.touched = path, set[str]()
        shutil.copytree(PACKAGE, path / PACKAGE.name)  # with what is compiled

    def write(self, file: str, text: str) -> None:
        """A new file."""
        self._put(file, "x", dedent(text))

    def edit(self, file: str, *lines: tuple[str, str]) -> None:
        """Lines that are added behind others."""
        text = (self.path / PACKAGE.name / file).read_text(encoding="utf-8")
        for before, line in lines:
            assert text.count(before) == 1, f"{file} has {before!r} {text.count(before)} times"
            text = text.replace(before, f"{before}{line}")
        self._put(file, "w", text)

    def _put(self, file: str, mode: str, text: str) -> None:
        with (self.path / PACKAGE.name / file).open(mode, encoding="utf-8") as stream:
            stream.write(text)
        self.touched.add(file)

    def run(self, code: str) -> str:
        """What a program that imports the copy prints."""
        begin = f"import subspace_lab as sl\nassert sl.__file__.startswith({str(self.path)!r})\n"
        cache = {"XDG_CACHE_HOME": str(self.path / "cache"), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        done = subprocess.run(
            [sys.executable, "-c", begin + dedent(code)], cwd=self.path, text=True, capture_output=True,
            env={**os.environ, "PYTHONPATH": str(self.path), **cache}, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path)


def add_optimizer(copy: Copy) -> None:
    copy.write(
        "optim/restarted.py",
        '''
        """Adam in the gradient's own top space, from zero at every refresh."""

        from subspace_lab.optim.subspace_adam import SubspaceAdam


        class Restarted(SubspaceAdam):
            """`GaLore` whose moments are zero after a refresh."""

            parts = ("svd", "reset", "none")
        ''',
    )
    copy.write(
        "optim/reference/restarted.py",
        '''
        """GaLore, restarted."""

        import numpy as np

        from subspace_lab.optim.reference.arrays import adam, for_wide_matrices, top_left


        @for_wide_matrices
        def restarted(W, gradients, *, lr, rank, update_interval, weight_decay=0.0, betas=(0.9, 0.999), eps=1e-8):
            """``W -= lr S O``, O Adam's direction on ``S^T G``, begun again with every S."""
            trajectory = []
            for step, G in enumerate(gradients):
                age = step % update_interval
                if age == 0:
                    S, M, V = top_left(G, rank), np.zeros((rank, G.shape[1])), np.zeros((rank, G.shape[1]))
                M, V, O = adam(S.T @ G, M, V, t=age + 1, betas=betas, eps=eps)
                W = (1 - lr * weight_decay) * W - lr * S @ O
                trajectory.append(W)
            return trajectory
        ''',
    )
    copy.edit(
        "optim/methods.py",
        ("from subspace_lab.optim.online_subspace_descent import OnlineSubspaceDescent\n",
         "from subspace_lab.optim.restarted import Restarted\n"),
        ('"RSO", "BAdam",', ' "Restarted",'),
    )  # fmt: skip


def test_an_optimizer_is_its_file_its_literal_twin_and_its_name_among_the_methods(copy: Copy) -> None:
    add_optimizer(copy)
    assert len(copy.touched) == 3
    printed = copy.run(f"""
        import numpy as np
        import torch
        from subspace_lab.cli import app
        from subspace_lab.optim.reference.restarted import restarted
        W, *gradients = np.random.default_rng(0).normal(size=(11, 9, 6))
        p = torch.nn.Parameter(torch.tensor(W))
        optimizer = sl.optim.Restarted([{{"params": [p], "rank": 3}}], lr=0.1, update_interval=4)
        literal = restarted(W, gradients, lr=0.1, rank=3, update_interval=4)
        for G, wanted in zip(gradients, literal, strict=True):
            p.grad = torch.tensor(G)
            optimizer.step()
            np.testing.assert_allclose(p.detach().numpy(), wanted, rtol=0, atol=1e-12)
        assert "Restarted" in sl.optim.__all__
        words = "--preset llama-2m --vocab-size 300 --steps 3 --batch-size 2 --sequence-length 16 --threads 1".split()
        words += ["--precision", "float32", "--data", {str(write_text(copy.path / "words.txt"))!r}]
        app(["train", "run", "--optimizer", "restarted", *words], result_action="return_value")
        run = sl.Run.open("run")
        print(run.manifest["config"]["optimizer"], len(run.metrics))
        app(["memory", "--preset", "llama-2m"], result_action="return_value")
    """)
    assert "restarted 3\n" in printed
    rows = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line.strip()}
    assert rows["Restarted"] == rows["GaLore"], "the same states, basis and refresh"


@pytest.mark.slow
def test_an_optimizer_joins_the_suite_that_all_share_by_one_line(copy: Copy) -> None:
    add_optimizer(copy)
    shutil.copytree(ROOT / "tests" / "optim", copy.path / "tests" / "optim")
    for file in ("__init__.py", "conftest.py"):
        shutil.copy(ROOT / "tests" / file, copy.path / "tests" / file)
    members, line = (
        copy.path / "tests" / "optim" / "members.py",
        '    Member("Restarted", CORE),\n',
    )
    text = members.read_text(encoding="utf-8")
    members.write_text(text.replace("MEMBERS = [\n", f"MEMBERS = [\n{line}"), encoding="utf-8")
    printed = copy.run("""
        import pytest
        words = ["-q", "-k", "Restarted", "-p", "no:cacheprovider", "tests/optim/test_contract.py"]
        assert pytest.main(words) == 0
    """)
    assert int(re.findall(r"(\d+) passed", printed)[0]) > 15


def test_a_rule_for_the_basis_is_a_file_and_a_line(copy: Copy) -> None:
    copy.write(
        "optim/rules/first_rows.py",
        '''
        """The first rows, for good."""

        import torch


        class FirstRows:
            """The first r rows of the identity."""

            def first(self, G, rank, context):
                """See `Rule.first`."""
                return torch.eye(len(G), rank, dtype=G.dtype)

            def refresh(self, S, G, context):
                """See `Rule.refresh`."""
                return S.clone()

            def workspace(self, m, n, r, e):
                """See `ShippedRule.workspace`."""
                return e * m * r
        ''',
    )
    copy.edit(
        "optim/rules/__init__.py",
        ("from subspace_lab.optim.rules.base import Context, Moment, Rule, ShippedRule\n",
         "from subspace_lab.optim.rules.first_rows import FirstRows\n"),
        ('    "coordinates": Coordinates(),\n', '    "first_rows": FirstRows(),\n'),
    )  # fmt: skip
    assert len(copy.touched) == 2
    copy.run("""
        import torch
        p = torch.nn.Parameter(torch.zeros(4, 6))
        parts = {"rule": "first_rows", "moments": "keep", "recovery": "none"}
        optimizer = sl.optim.SubspaceAdam([{"params": [p], "rank": 2}], lr=0.1, **parts)
        p.grad = torch.ones(4, 6)
        optimizer.step()
        assert torch.allclose(p.detach(), torch.tensor([-0.1, -0.1, 0.0, 0.0])[:, None].expand(4, 6))
        report = sl.optim.memory_report({"layers.0.up.weight": (4, 6)}, "SubspaceAdam", rank=2, **parts)
        assert report.refresh_workspace == 4 * 4 * 2
    """)


QUANTITY = '''
    """The share of a gradient's energy in its first direction."""

    from dataclasses import dataclass

    from subspace_lab.analysis.pass_over_snapshots import pass_over_snapshots


    @dataclass(frozen=True)
    class Dominance:
        """The measure behind `dominance`."""

        table = "dominance"
        columns = ("step", "layer", "depth", "kind", "share")
        num_vectors = max_lag = first_columns = 0
        residual = False

        def add(self, at, columns):
            """Add a row."""
            columns.add(
                1, step=at.step, layer=at.layer.name, depth=at.layer.depth, kind=at.layer.kind,
                share=float(at.energies[0]) / at.total,
            )


    def dominance(run, *, executor=None):
        """A row per step and layer."""
        return pass_over_snapshots(run, [Dominance()], executor)["dominance"]
'''
FIGURE = '''
    """The share of the first direction over training."""

    from subspace_lab.figures.panels import grid
    from subspace_lab.figures.style import styled_figure
    from subspace_lab.figures.tables import load

    TITLE, CAPTION = "Dominance of one direction", "It misleads where there are two."


    @styled_figure(TITLE)
    def draw(run, layout):
        """Draw the mean over layers."""
        figure, axes = grid(layout, ["all"], xlabel="optimizer step", ylabel="share", height=2.0)
        axes["all"].plot(load(run, "dominance").groupby("step")["share"].mean())
        return figure
'''


def test_a_quantity_of_a_run_and_its_figure_are_a_file_and_a_line_each(copy: Copy) -> None:
    copy.write("analysis/dominance.py", QUANTITY)
    copy.edit(
        "analysis/everything.py",
        ("from subspace_lab.analysis.curvature import Curvature, curvature\n",
         "from subspace_lab.analysis.dominance import Dominance, dominance\n"),
        ('__all__ = ["analyze", "angles", "curvature", ', '"dominance", '),
        ("        Spectrum(),\n", "        Dominance(),\n"),
    )  # fmt: skip
    assert len(copy.touched) == 2
    copy.touched.clear()
    copy.write("figures/dominance.py", FIGURE)
    copy.edit(
        "figures/all.py",
        ("    depth_overlap,\n", "    dominance,\n"),
        ('    "depth_overlap": depth_overlap,\n', '    "dominance": dominance,\n'),
    )
    assert len(copy.touched) == 2
    gradients = {
        "blocks.0.up.weight": torch.diag(torch.tensor([2.0, 1.0, 1.0, 1.0])),
        "blocks.0.q.weight": torch.eye(4),
    }
    write_run(copy.path / "run", lambda _: gradients, steps=2)
    copy.run("""
        run = sl.Run.open("run", write=True)
        table = sl.analysis.analyze(run, ranks=2, rank=2)["dominance"]
        shares = {str(name): round(of["share"].mean(), 6) for name, of in table.groupby("layer", observed=True)}
        assert shares == {"blocks.0.q.weight": 0.25, "blocks.0.up.weight": round(4 / 7, 6)}, shares
        for name in [*sl.figures.FIGURES]:  # the others take their time
            if name != "dominance":
                del sl.figures.FIGURES[name]
        assert sl.analysis.dominance(run).equals(table)
        assert run.table("dominance").equals(table)
        sl.figures.draw_all(run)
        sl.report.write_report(run)
    """)
    assert {path.suffix for path in (copy.path / "run" / "figures").glob("dominance.*")} == {".png", ".pdf"}
    report = (copy.path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Dominance of one direction" in report
    assert "It misleads where there are two." in report


def test_a_quantity_of_the_paper_with_its_figure_is_a_file_and_a_line(copy: Copy) -> None:
    copy.write(
        "studies/grass_paper/quantities/spread.py",
        '''
        """How far the seeds of a method lie apart."""

        from subspace_lab.experiments.statistics import best_rows
        from subspace_lab.experiments.store import RESULTS
        from subspace_lab.figures.panels import grid
        from subspace_lab.figures.style import picture
        from subspace_lab.studies.grass_paper.quantity import Quantity


        def measure(store):
            """The standard deviation of the held-out loss."""
            of_method = best_rows(store.read(RESULTS), ["grasswalk", "galore"]).groupby("method")["eval_loss"]
            return of_method.std().rename("spread").reset_index()


        @picture("Spread of the seeds", "Standard deviations. Three seeds are few.")
        def drawn(table, layout):
            """Draw a bar per method."""
            figure, axes = grid(layout, ["all"], xlabel="method", ylabel="held-out loss", height=2.0)
            axes["all"].bar(table["method"], table["spread"])
            return figure


        QUANTITY = Quantity(
            "spread", measure=measure, pictures={"spread": drawn}, columns={"method": "str", "spread": "float"}
        )
        ''',
    )
    copy.edit(
        "studies/grass_paper/quantities/__init__.py",
        ("    sensitivity,\n", "    spread,\n"),
        ('    "sensitivity": sensitivity.QUANTITY,\n', '    "spread": spread.QUANTITY,\n'),
    )
    assert len(copy.touched) == 2
    shutil.copytree(ROOT / "results" / "grass_paper", copy.path / "paper")
    copy.run("""
        from subspace_lab.cli import app
        app(["figures", "paper", "--profile", "cpu", "--only", "spread"], result_action="return_value")
        import pandas as pd
        assert pd.read_parquet("paper/tables/spread.parquet")["method"].tolist() == ["galore", "grasswalk"]
    """)
    assert {path.suffix for path in (copy.path / "paper").glob("spread.*")} == {".png", ".pdf"}
    assert "Three seeds are few." in (copy.path / "paper" / "evidence.md").read_text(encoding="utf-8")


def test_a_task_is_a_file_and_is_handed_over(copy: Copy) -> None:
    copy.write(
        "training/tasks/regression.py",
        '''
        """Rows of a linear map."""

        import torch

        from subspace_lab.training.tasks.base import Metric


        class Regression:
            """The sum of four normal numbers; the loss is the squared error."""

            identity, metrics, tokens_per_row = "sums of four", (Metric("eval_error", unit=""),), 1

            def _rows(self, first, count, seed):
                of = [torch.Generator().manual_seed(1000 * seed + first + k) for k in range(count)]
                x = torch.stack([torch.randn(4, generator=one) for one in of])
                return {"x": x, "y": x.sum(1, keepdim=True)}

            def batch(self, first, count, *, seed):
                """See `Task.batch`."""
                return self._rows(first, count, seed + 1)

            def loss(self, model, batch):
                """See `Task.loss`."""
                return (model(batch["x"]) - batch["y"]).square().mean()

            def evaluate(self, model):
                """See `Task.evaluate`."""
                return {"eval_error": self.loss(model, self.probe(16)).item()}

            def probe(self, count):
                """See `Task.probe`."""
                return self._rows(0, count, 0)

            def facts(self):
                """See `Task.facts`."""
                return {"rows": 16}
        ''',
    )
    assert len(copy.touched) == 1
    copy.run("""
        import torch
        from subspace_lab.training.tasks.regression import Regression
        config = sl.TrainConfig(steps=40, batch_size=8, sequence_length=2, lr=0.1, warmup=0, eval_every=20,
                                precision="float32", every=None, threads=1)
        torch.manual_seed(0)
        run = sl.Run.open(sl.train("run", config, feed=Regression(), model=torch.nn.Linear(4, 1)))
        errors = run.metrics["eval_error"].dropna()
        assert errors.iloc[-1] < 0.1 * errors.iloc[0], errors
    """)
