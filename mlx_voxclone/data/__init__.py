"""Recordings in, clips out: manifests, preparation, transcripts, and a synthesiser of speech-like test voices."""
