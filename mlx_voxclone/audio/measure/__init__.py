"""How good a recording is: noise, bandwidth, reverberation."""
