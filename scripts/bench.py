"""Say how fast this machine is; the same as `voxclone bench`."""

import sys

from mlx_voxclone.cli import script

if __name__ == "__main__":
    sys.exit(script("bench"))
