"""Speech recognisers beside mlx-whisper."""
