"""What moves the parameters: AdamW, and one of it for each group of parameters."""
