"""New checkpoints from old ones: encoder injected, adapters folded, voices added; compared and taken back."""
