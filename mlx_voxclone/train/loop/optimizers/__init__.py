"""The optimisers: AdamW, and one instance of it for each group of parameters."""
