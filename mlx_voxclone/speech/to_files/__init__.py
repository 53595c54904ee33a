"""Speech into files: a long text into one WAV that grows, the lines of a list into a WAV each."""
