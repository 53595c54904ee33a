"""Write a miniature checkpoint; the same as `voxclone micro`."""

import sys

from mlx_voxclone.cli import script

if __name__ == "__main__":
    sys.exit(script("micro"))
