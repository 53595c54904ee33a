"""Codes of recordings, judged by the language model."""
