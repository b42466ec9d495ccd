"""The experiments behind the paper's figures: one file each, whose ``measure`` returns a tidy table."""
