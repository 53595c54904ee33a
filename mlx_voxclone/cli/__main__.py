"""`python -m mlx_voxclone.cli NAME`: the command, where its script is not on the path."""

import sys

from mlx_voxclone.cli import main

if __name__ == "__main__":
    sys.exit(main())
