"""Step 6: voices as cards: export, bake, publish, delete."""
