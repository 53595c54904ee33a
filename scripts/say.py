"""Text to speech; the same as `voxclone say`."""

import sys

from mlx_voxclone.cli.say import main

if __name__ == "__main__":
    sys.exit(main())
