"""STFT and mel: plain operations, Metal kernels, and the choice between them."""
