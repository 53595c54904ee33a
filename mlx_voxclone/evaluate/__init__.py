"""What a run came to: plots and the HTML report."""
