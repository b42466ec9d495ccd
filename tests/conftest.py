"""Shapes of annotated arguments are checked by machine in the tests only."""

from jaxtyping import install_import_hook

install_import_hook("subspace_lab.numerics", "beartype.beartype")
