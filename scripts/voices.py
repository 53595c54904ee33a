"""A checkpoint's voices; the same as `voxclone voices`."""

import sys

from mlx_voxclone.cli.voices import main

if __name__ == "__main__":
    sys.exit(main())
