"""``subspace-lab figures``: parse, call, print."""

from __future__ import annotations

from typing import Literal

from subspace_lab.cli.compare import Words, slurm_options, split
from subspace_lab.cli.parameters import File, OutDir


def figures(
    out_dir: OutDir,
    /,
    *,
    profile: str,
    only: Words | None = None,
    longer: bool = False,
    executor: Literal["local", "slurm"] = "local",
    workers: int | None = None,
    slurm: dict[str, str] | None = None,
    recompute: bool = False,
    page: File | None = None,
    pictures: File | None = None,
    dry_run: bool = False,
) -> None:
    """Make the paper's figures and tables again, training whatever is missing.

    The same command goes on where it was cut; with all tables there, it draws the figures again and computes nothing.

    Parameters
    ----------
    out_dir
        Where tables and figures go, with the page that says claim by claim what came out.
    profile
        How large: smoke (a test), cpu (80 minutes on two cores) or paper (LLaMA-1B and 7B on C4).
    only
        Names of figures, separated by commas or spaces; all by default.
    longer
        Four times the steps and two more seeds; takes an OUT_DIR of its own.
    executor
        Processes of this machine, or Slurm job arrays.
    workers
        Trainings at a time; by default one per core, or as many as Slurm gives.
    slurm
        Options of Slurm: --slurm.partition gpu --slurm.time 60.
    recompute
        Forget what the chosen figures rest on and train it again.
    page
        Where the page goes; OUT_DIR/evidence.md by default.
    pictures
        Where the figures go, as PNG and PDF; OUT_DIR by default.
    dry_run
        Print every training with its memory and tokens, and begin none.
    """
    chosen, options = None if only is None else split(only), slurm_options(slurm)
    if dry_run:
        values = {"page": page, "pictures": pictures, "workers": workers}
        _refuse([*(["recompute"] if recompute else []), *(name for name, one in values.items() if one is not None)])
        from subspace_lab.studies.grass_paper.dry_run import plan_lines

        for line in plan_lines(out_dir, profile, only=chosen, longer=longer, executor=executor, slurm=options):
            print(line)
        return
    from subspace_lab.studies.grass_paper import regenerate

    written = regenerate(
        out_dir, profile=profile, only=chosen, longer=longer, executor=executor, workers=workers, slurm=options,
        recompute=recompute, page=page, pictures=pictures,
    )  # fmt: skip
    print(f"figures: {pictures or out_dir}\ntables: {out_dir / 'tables'}\nclaims: {written}")


def _refuse(given: list[str]) -> None:
    for name in given:
        raise ValueError(f"--{name} has no effect on --dry-run, which begins nothing; leave it out")
