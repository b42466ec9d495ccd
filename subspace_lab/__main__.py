"""``python -m subspace_lab``, which ``torchrun -m subspace_lab`` begins in several processes: the command line."""

from subspace_lab.cli import main

if __name__ == "__main__":
    main()
