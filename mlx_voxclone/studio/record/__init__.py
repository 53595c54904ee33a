"""Step 2: recordings with their texts and the speaker's consent."""
