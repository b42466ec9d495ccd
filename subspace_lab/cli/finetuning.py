"""``subspace-lab finetuning``: parse, call, print."""

from __future__ import annotations

from subspace_lab.cli.figures import refuse_beside_dry_run
from subspace_lab.cli.parameters import STUDIED_HERE, File, OutDir, StudyOptions


def finetuning(
    out_dir: OutDir,
    /,
    *,
    profile: str,
    execution: StudyOptions = STUDIED_HERE,
    recompute: bool = False,
    page: File | None = None,
    pictures: File | None = None,
    draw_only: bool = False,
    dry_run: bool = False,
) -> None:
    """Fine-tune a pretrained model by every method, and look at the gradients of its blocks.

    How many trainings that is, and how long they take, is said first. The same command goes on where it was cut; with
    all tables there, it draws the figures again and computes nothing.

    Parameters
    ----------
    out_dir
        Where tables and figures go, with the page that says claim by claim what came out.
    profile
        How large: smoke (a test on a tiny random model), cpu (SmolLM2-135M on two cores) or gpu.
    execution
        How they are trained.
    recompute
        Forget all trainings and repeat them.
    page
        Where the page goes; OUT_DIR/finetuning.md by default.
    pictures
        Where the figures go, as PNG and PDF; OUT_DIR by default.
    draw_only
        Draw what the tables hold, and train nothing.
    dry_run
        Print the budget and every training, and begin none.
    """
    how = execution.arguments()
    if dry_run:
        refuse_beside_dry_run(
            recompute=recompute, draw_only=draw_only, page=page, pictures=pictures, workers=how.pop("workers")
        )
        from subspace_lab.studies.finetuning.dry_run import plan_lines

        for line in plan_lines(out_dir, profile, **how):
            print(line)
        return
    from subspace_lab.studies.finetuning import fine_tune

    written = fine_tune(
        out_dir, profile=profile, recompute=recompute, page=page, pictures=pictures, draw_only=draw_only, **how
    )
    print(f"figures: {pictures or out_dir}\ntables: {out_dir / 'tables'}\nclaims: {written}")
