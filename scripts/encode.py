"""Audio to codes, latents and voice embedding; the same as `voxclone encode`."""

import sys

from mlx_voxclone.cli import script

if __name__ == "__main__":
    sys.exit(script("encode"))
