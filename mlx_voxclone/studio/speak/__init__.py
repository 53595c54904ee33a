"""Step 5: texts of any length, spoken and kept."""
