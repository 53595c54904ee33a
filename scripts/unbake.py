"""Take a bake back; the same as `voxclone unbake`."""

import sys

from mlx_voxclone.cli.unbake import main

if __name__ == "__main__":
    sys.exit(main())
