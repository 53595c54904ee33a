"""MLX-native voice cloning for Voxtral-4B-TTS."""

from mlx_voxclone.version import __version__

__all__ = ["__version__"]
