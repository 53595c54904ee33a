"""What a run leaves and goes on from: checkpoints, resume, results."""
