"""Exact pairs of codes and audio; the same as `voxclone pairs`."""

import sys

from mlx_voxclone.cli.pairs import main

if __name__ == "__main__":
    sys.exit(main())
