"""The studio: from the microphone to a voice in the browser, on the same code as the commands."""
