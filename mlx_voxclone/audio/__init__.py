"""Audio in and out, pauses and levels, spectra. Everything is 24 kHz mono float32, as the codec wants it."""
