"""The figures of papers, one file each: ``draw(table)`` draws what an experiment measured, nothing else."""
