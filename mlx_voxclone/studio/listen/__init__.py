"""Step 4: voices side by side, and a blind test."""
