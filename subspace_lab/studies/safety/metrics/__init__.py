"""From verdicts to the numbers of a table."""
