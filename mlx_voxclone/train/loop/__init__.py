"""The training loop: steps, gradients, optimizers, data order, several ranks."""
