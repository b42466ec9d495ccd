"""The quantities of the study: one file each, with the columns of its table, its measure and its pictures."""
