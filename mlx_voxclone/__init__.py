"""MLX-native voice cloning for Voxtral-4B-TTS."""

__version__ = "0.1.0"
