"""Does this machine compute what it must: a series of checks for a GPU that has not been tried yet."""
