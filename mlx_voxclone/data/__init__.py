"""Recordings in, clips out: manifests, preparation, transcripts, shards."""
