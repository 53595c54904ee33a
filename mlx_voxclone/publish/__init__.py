"""Sharing what was trained: which files go up, the model card, and the upload to the hub."""
