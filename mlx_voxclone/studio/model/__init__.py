"""Step 1: which Voxtral, and what this machine can do with it."""
