"""Measures of speech and codes, and the cases they are taken on."""
