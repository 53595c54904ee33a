"""What a run shows: page, plots, before and after."""
