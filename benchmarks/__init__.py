"""What is measured rather than used: run as `python -m benchmarks.NAME` from the repository."""
