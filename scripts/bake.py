"""Write a new checkpoint; the same as `voxclone bake`."""

import sys

from mlx_voxclone.cli import script

if __name__ == "__main__":
    sys.exit(script("bake"))
