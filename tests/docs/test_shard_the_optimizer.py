"""The support table of the page on distributed optimizers: a cell is there if, and only if, its test is."""

from __future__ import annotations

from subspace_lab.optim import METHODS
from tests.docs.pages import ROOT
from tests.optim.members import MEMBERS
from tests.optim.sharded.checkpoints import RESUMED
from tests.optim.sharded.worker import WRAPPERS, members_under

PAGE = ROOT / "docs" / "how-to" / "shard-the-optimizer.md"
COLUMNS = {
    "DDP": "ddp", "FSDP2": "fsdp", "HSDP": "hsdp", "tensor parallel": "tp", "FSDP2 x tensor parallel": "fsdp-tp",
}  # fmt: skip


def rows() -> list[list[str]]:
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_cell_has_its_test() -> None:
    head, *body = rows()
    assert head == ["method", *COLUMNS, "distributed checkpoints"]
    tested = {member.name for member in MEMBERS}
    assert all({m.name for m in members_under(kind)} == tested for kinds in WRAPPERS.values() for kind in kinds)
    resumed = {member.name for member, _ in RESUMED}
    assert set(WRAPPERS) == {1, 2, 4}
    assert all(set(COLUMNS.values()) <= set(kinds) for kinds in WRAPPERS.values())
    assert {row[0] for row in body} == tested == {*names(), "SubspaceAdam"}
    for name, *cells in body:
        assert cells == ["yes"] * len(COLUMNS) + ["yes" if name in resumed else "no"], name


def names() -> list[str]:
    """Methods of this package."""
    return [kind.__name__ for kind in METHODS.values() if kind.__module__.startswith("subspace_lab.")]
