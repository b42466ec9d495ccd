"""The referee of the claim that safety lives in a subspace: overlaps, angles and energies with their nulls."""
