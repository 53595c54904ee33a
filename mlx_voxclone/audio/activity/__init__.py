"""Where speech is, by a trained detector."""
