"""Text to speech; the same as `voxclone say`."""

import sys

from mlx_voxclone.cli import script

if __name__ == "__main__":
    sys.exit(script("say"))
