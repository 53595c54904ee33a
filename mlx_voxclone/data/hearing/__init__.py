"""What a Whisper makes possible with texts: long recordings cut with their text, texts compared with what is heard."""
