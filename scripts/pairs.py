"""Exact pairs of codes and audio; the same as `voxclone pairs`."""

import sys

from mlx_voxclone.cli import script

if __name__ == "__main__":
    sys.exit(script("pairs"))
