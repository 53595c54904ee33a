"""A stage of a run: what it shares with the others, and how its training is begun, continued or found complete."""
