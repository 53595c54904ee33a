"""A checkpoint's voices; the same as `voxclone voices`."""

import sys

from mlx_voxclone.cli import script

if __name__ == "__main__":
    sys.exit(script("voices"))
