"""Code distillation."""
