"""Recordings to clips, transcripts and a held-out split; the same as `voxclone prepare`."""

import sys

from mlx_voxclone.cli import script

if __name__ == "__main__":
    sys.exit(script("prepare"))
