"""Tensor files, releases and voices: reading and writing."""
