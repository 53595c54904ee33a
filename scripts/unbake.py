"""Take a bake back; the same as `voxclone unbake`."""

import sys

from mlx_voxclone.cli import script

if __name__ == "__main__":
    sys.exit(script("unbake"))
