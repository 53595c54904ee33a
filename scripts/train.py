"""Train from a configuration, or run the smoke test; the same as `voxclone train`."""

import sys

from mlx_voxclone.cli import script

if __name__ == "__main__":
    sys.exit(script("train"))
