"""What a command needs of the operating system: signals, streams, locks, temporaries. Imports nothing heavy."""
