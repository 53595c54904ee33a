"""Everything that knows tensor files: reading, atomic writing, voices, adapters, baking, the miniature."""
