"""Recordings to clips, transcripts and a held-out split; the same as `voxclone prepare`."""

import sys

from mlx_voxclone.cli.prepare import main

if __name__ == "__main__":
    sys.exit(main())
