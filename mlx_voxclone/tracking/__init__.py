"""A run's figures on boards of the user's own, and word of its end."""
