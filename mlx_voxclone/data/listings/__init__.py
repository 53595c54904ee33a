"""Lists of recordings as other programs write them: tables, JSON Lines, and the files that their names mean."""
