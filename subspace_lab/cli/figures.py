"""``subspace-lab figures``: parse, call, print."""

from __future__ import annotations

from subspace_lab.cli.compare import Words, split
from subspace_lab.cli.parameters import STUDIED_HERE, File, OutDir, StudyOptions


def figures(
    out_dir: OutDir,
    /,
    *,
    profile: str,
    only: Words | None = None,
    longer: bool = False,
    execution: StudyOptions = STUDIED_HERE,
    recompute: bool = False,
    page: File | None = None,
    pictures: File | None = None,
    draw_only: bool = False,
    dry_run: bool = False,
) -> None:
    """Make the paper's figures and tables again, training whatever is missing.

    The same command goes on where it was cut; with all tables there, it draws the figures again and computes nothing.

    Parameters
    ----------
    out_dir
        Where tables and figures go, with the page that says claim by claim what came out.
    profile
        How large: smoke (a test), cpu (five hours on two cores) or paper (LLaMA-1B and 7B on C4).
    only
        Names of figures, separated by commas or spaces; all by default.
    longer
        Four times the steps and two more seeds; takes an OUT_DIR of its own.
    execution
        How they are trained.
    recompute
        Forget what the chosen figures rest on and train it again.
    page
        Where the page goes; OUT_DIR/evidence.md by default.
    pictures
        Where the figures go, as PNG and PDF; OUT_DIR by default.
    draw_only
        Draw what the tables hold, and train nothing.
    dry_run
        Print every training with its memory and tokens, and begin none.
    """
    chosen, how = None if only is None else split(only), execution.arguments()
    if dry_run:
        refuse_beside_dry_run(
            recompute=recompute, draw_only=draw_only, page=page, pictures=pictures, workers=how.pop("workers")
        )
        from subspace_lab.studies.grass_paper.dry_run import plan_lines

        for line in plan_lines(out_dir, profile, only=chosen, longer=longer, **how):
            print(line)
        return
    from subspace_lab.studies.grass_paper import regenerate

    written = regenerate(
        out_dir, profile=profile, only=chosen, longer=longer, recompute=recompute, page=page, pictures=pictures,
        draw_only=draw_only, **how
    )  # fmt: skip
    print(f"figures: {pictures or out_dir}\ntables: {out_dir / 'tables'}\nclaims: {written}")


def refuse_beside_dry_run(**given: object) -> None:
    """ValueError for an option that was given and has no effect on a dry run, by its name in Python."""
    for name, value in given.items():
        if value not in {None, False}:
            raise ValueError(
                f"--{name.replace('_', '-')} has no effect on --dry-run, which begins nothing; leave it out"
            )
