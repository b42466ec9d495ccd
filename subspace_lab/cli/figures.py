"""``subspace-lab figures``: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from subspace_lab.cli.compare import Words, split


def figures(
    out_dir: Annotated[Path, Parameter(name="OUT_DIR")],
    /,
    *,
    profile: str,
    only: Words | None = None,
    longer: bool = False,
    workers: int | None = None,
    recompute: bool = False,
    page: Path | None = None,
    dry_run: bool = False,
) -> None:
    """Make the paper's figures and tables again, training whatever is missing.

    The same command goes on where it was cut; with all tables there, it draws the figures again and computes nothing.

    Parameters
    ----------
    out_dir
        Where tables and figures go, with the page that says claim by claim what came out.
    profile
        How large: smoke (a test), cpu (75 minutes on two cores) or paper (LLaMA-1B and 7B on C4).
    only
        Names of figures, separated by commas or spaces; all by default.
    longer
        Four times the steps and two more seeds; takes an OUT_DIR of its own.
    workers
        Trainings at a time; by default one per core.
    recompute
        Forget what the chosen figures rest on and train it again.
    page
        Where the page goes; OUT_DIR/evidence.md by default.
    dry_run
        Print every training with its memory and tokens, and begin none.
    """
    chosen = None if only is None else split(only)
    if dry_run:
        given = {"recompute": recompute, "page": page is not None, "workers": workers is not None}
        _dry_run(out_dir, profile, chosen, longer=longer, given=[name for name, is_given in given.items() if is_given])
        return
    from subspace_lab.evidence import regenerate

    written = regenerate(
        out_dir, profile=profile, only=chosen, longer=longer, workers=workers, recompute=recompute, page=page
    )
    print(f"figures: {out_dir}\ntables: {out_dir / 'tables'}\nclaims: {written}")


def _dry_run(out_dir: Path, profile: str, only: list[str] | None, *, longer: bool, given: list[str]) -> None:
    from subspace_lab.evidence.plan import plan_lines

    for name in given:
        raise ValueError(f"--{name} has no effect on --dry-run, which begins nothing; leave it out")
    for line in plan_lines(out_dir, profile, only=only, longer=longer):
        print(line)
