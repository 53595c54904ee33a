"""Measure outputs; the same as `voxclone evaluate`."""

import sys

from mlx_voxclone.cli import script

if __name__ == "__main__":
    sys.exit(script("evaluate"))
