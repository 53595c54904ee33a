"""LoRA: files, mixes, and models that carry adapters."""
