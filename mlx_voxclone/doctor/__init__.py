"""What a run will need: memory, time, disk; and the smoke test."""
