"""Compare two checkpoints; the same as `voxclone diff`."""

import sys

from mlx_voxclone.cli.diff import main

if __name__ == "__main__":
    sys.exit(main())
