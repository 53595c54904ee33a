"""The codec encoder's training."""
