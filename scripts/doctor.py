"""Say what this machine can train; the same as `voxclone doctor`."""

import sys

from mlx_voxclone.cli import script

if __name__ == "__main__":
    sys.exit(script("doctor"))
