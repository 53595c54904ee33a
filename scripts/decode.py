"""Codes to audio; the same as `voxclone decode`."""

import sys

from mlx_voxclone.cli.decode import main

if __name__ == "__main__":
    sys.exit(main())
