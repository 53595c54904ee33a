"""Formats that another program decodes."""
