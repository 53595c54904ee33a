"""Whisper, as files, as a listener, and as times of words: shared by the preparation of data and by training."""
