"""Miniature checkpoints and synthetic speakers to try everything on."""
