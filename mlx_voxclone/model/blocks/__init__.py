"""Layers that the codec and the language model are built of."""
