"""Whisper as a teacher of the semantic codes."""
