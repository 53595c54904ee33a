"""Measure outputs; the same as `voxclone evaluate`."""

import sys

from mlx_voxclone.cli.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
