"""Task `clone`: from an encoder to a voice that is delivered."""
