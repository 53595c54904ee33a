"""Compare two checkpoints; the same as `voxclone diff`."""

import sys

from mlx_voxclone.cli import script

if __name__ == "__main__":
    sys.exit(script("diff"))
