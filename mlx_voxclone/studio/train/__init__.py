"""Step 3: a training in a process of its own."""
