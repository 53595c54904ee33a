"""Write a new checkpoint; the same as `voxclone bake`."""

import sys

from mlx_voxclone.cli.bake import main

if __name__ == "__main__":
    sys.exit(main())
