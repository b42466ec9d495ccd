"""What ends a training before its last step."""

from subspace_lab.runs import RunError


class DivergedError(RunError):
    """The loss or the gradient is no longer finite; the run keeps what it had until then."""
