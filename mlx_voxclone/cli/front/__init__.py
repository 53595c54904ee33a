"""The commands that most people need."""
