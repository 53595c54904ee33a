"""Training: one loop (`loop/trainer.py`) for every task; a task only says how to build a batch and a loss."""
