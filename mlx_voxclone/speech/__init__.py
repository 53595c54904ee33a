"""Text to speech with a checkpoint, its voices and adapters."""
