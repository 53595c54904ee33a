"""Audio to codes, latents and voice embedding; the same as `voxclone encode`."""

import sys

from mlx_voxclone.cli.encode import main

if __name__ == "__main__":
    sys.exit(main())
