"""Write a miniature checkpoint; the same as `voxclone micro`."""

import sys

from mlx_voxclone.cli.micro import main

if __name__ == "__main__":
    sys.exit(main())
