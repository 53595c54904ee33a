"""Codes to audio; the same as `voxclone decode`."""

import sys

from mlx_voxclone.cli import script

if __name__ == "__main__":
    sys.exit(script("decode"))
