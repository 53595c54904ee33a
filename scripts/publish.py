"""Share what was trained on the hub; the same as `voxclone publish`."""

import sys

from mlx_voxclone.cli import script

if __name__ == "__main__":
    sys.exit(script("publish"))
