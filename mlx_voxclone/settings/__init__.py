"""The run configuration: one schema, its defaults, bounds and comments."""
