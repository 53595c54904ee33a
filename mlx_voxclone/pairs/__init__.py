"""Exact pairs of codes and audio: made by letting a model speak (`make`), in voices of recordings too (`voices`).

How they lie on the disk and are read is in `pairs/files.py` and `pairs/data.py`.
"""
