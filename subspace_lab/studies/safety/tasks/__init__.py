"""Tasks, one file each, in tokens for the synthetic policy and in English; a file registers its class."""
