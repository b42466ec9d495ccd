"""Where trials run: processes of this machine, several processes for one trial, a Slurm job array."""
